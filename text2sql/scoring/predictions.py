"""Predictions executed beside their gold queries: data/predictions/test.jsonl to the rows of verdicts.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from text2sql.errors import UserError
from text2sql.files import read_jsonl
from text2sql.postgres.sandbox import Sandbox
from text2sql.progress import track
from text2sql.scoring.hardness import hardness_of_gold
from text2sql.scoring.judge import is_possible, judge
from text2sql.scoring.report import preview

KEYS = ("id", "db_id", "question", "gold", "predicted")


def read_predictions(path: Path, split: Path) -> list[dict[str, Any]]:
    """The predictions, each with its question's hardness.

    Raises:
        UserError: a key is missing, a text cannot be written as UTF-8, or an id occurs twice.
    """
    rows = list(read_jsonl(path))
    for number, row in enumerate(rows, start=1):
        if missing := [key for key in KEYS if not isinstance(row.get(key), str)]:
            raise UserError(f"{path}, line {number}: no text under {missing[0]}", f"each line needs {', '.join(KEYS)}")
        try:
            "".join(row[key] for key in KEYS).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{path}, line {number}: half of a character (a lone surrogate)", "write whole characters"
            ) from None
    if len({row["id"] for row in rows}) < len(rows):
        raise UserError(f"{path}: an id occurs twice", "predict each question once")
    levels = {row["id"]: row.get("hardness") for row in read_jsonl(split)}
    return [{**row, "hardness": levels.get(row["id"]) or hardness_of_gold(row["gold"])} for row in rows]


def judge_predictions(
    sandbox: Sandbox, rows: Sequence[dict[str, Any]], workers: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Execute every prediction and its gold query.

    Args:
        workers: queries executed at a time.

    Returns:
        the rows with their verdicts, in the same order; and, by id, the first lines of the results that differ.
    """
    previews: dict[str, dict[str, Any]] = {}

    def judge_row(row: dict[str, Any]) -> dict[str, Any]:
        judged = judge(sandbox, row["db_id"], row["gold"], row["predicted"])
        if not judged.excluded and not judged.strict.correct:
            sides = (("gold", judged.gold), ("predicted", judged.predicted))
            previews[row["id"]] = {side: preview(result, row[side]) for side, result in sides}
        return {**row, **judged.row(is_possible(sandbox, row["db_id"], row["gold"], judged))}

    with ThreadPoolExecutor(workers) as pool:
        return list(track(pool.map(judge_row, rows), "executing predictions", len(rows))), previews
