"""The test questions that the score leaves out, since their tables have no rows, judged on generated rows.

    python -m dev.empty_tables       # where the pipeline has run

In the public copy of Spider the tables of wta_1 (62 questions of dev) are empty: every query that runs would be right
there. Rows are made from the gold queries, as the stage `convert` makes them (text2sql/conversion/synthetic.py), and
the pipeline's adapter answers these questions in a scratch folder. The second line says how far such verdicts can be
trusted: the questions that were judged on real rows, judged on generated ones. The third is all of the test part, real
rows where there are some.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.scratch import run, workspace
from stages.prompts import read_options as prompt_options
from stages.score import read_options as score_options
from stages.split import is_from
from text2sql.config import read_params
from text2sql.conversion.databases import open_source
from text2sql.conversion.databases.dump import dump
from text2sql.conversion.synthetic import fill, without_constraints
from text2sql.data.spider.examples import TEST_FILE, database_file
from text2sql.files import read_jsonl, write_jsonl, write_text
from text2sql.model.prompt import render
from text2sql.postgres.load import loaded_sandbox
from text2sql.schema import Schema, read_index
from text2sql.scoring.figures import score_figures
from text2sql.scoring.predictions import judge_predictions
from text2sql.workspace import EXAMPLES, INDEX, PREDICTIONS, PROMPTS, SOURCE, SPLITS, VERDICTS

Row = dict[str, Any]
INPUTS = ("data/postgres", "models")


def generated(folder: Path, schemas: Mapping[str, Schema], queries: Mapping[str, list[str]]) -> None:
    """Write `folder`/DB_ID.sql for each database: its tables with rows made for its gold queries in SQLite's SQL."""
    for db_id, texts in queries.items():
        schema = without_constraints(schemas[db_id])
        with open_source(database_file(SOURCE, db_id)) as source:
            made = fill(source, schema, texts)
        write_text(folder / f"{db_id}.sql", "".join(dump(made, schema)))
        made.connection.close()


def line(label: str, verdicts: Iterable[Row]) -> None:
    score = score_figures(list(verdicts))
    low, high = score["ci95"]
    print(
        f"{label:45} {score['execution_accuracy']:.1%} [{low:.1%}, {high:.1%}], strict "
        f"{score['execution_accuracy_strict']:.1%}, valid SQL {score['valid_sql']:.1%}, of {score['n']}"
    )


def main() -> None:
    params = read_params()
    options, schemas = score_options(params), read_index(INDEX)
    examples = [row for row in read_jsonl(EXAMPLES) if is_from(row, TEST_FILE) and row["postgres"]]
    queries: dict[str, list[str]] = defaultdict(list)
    for row in examples:
        queries[row["db_id"]].append(row["sqlite"])
    known = list(read_jsonl(VERDICTS))
    empty = [
        {**{key: row[key] for key in ("id", "db_id", "question", "hardness")}, "sql": row["postgres"]}
        for row in examples
        if row["status"] == "unverifiable"
    ]
    form = prompt_options(params)
    prompts = [
        {
            "id": row["id"],
            "db_id": row["db_id"],
            "prompt": render(schemas[row["db_id"]], row["question"], form.prompt, form.template),
        }
        for row in empty
    ]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = workspace(Path(scratch), INPUTS)
        write_jsonl(folder / SPLITS / "test.jsonl", empty)
        write_jsonl(folder / PROMPTS / "test.jsonl", prompts)
        run(folder, "predict")
        levels = {row["id"]: row["hardness"] for row in empty}
        answers = [{**row, "hardness": levels[row["id"]]} for row in read_jsonl(folder / PREDICTIONS)]
        generated(folder / "generated", schemas, queries)
        sandbox = stack.enter_context(
            loaded_sandbox(sorted(queries), folder / "generated", options.limits(), options.workers)
        )
        found, _ = judge_predictions(sandbox, answers, options.workers)
        again, _ = judge_predictions(sandbox, known, options.workers)
    line("tables without rows, on generated ones", found)
    pairs = Counter((real["verdict_suite"], made["verdict_suite"]) for real, made in zip(known, again, strict=True))
    print(
        f"the others, on real and on generated rows: right on both {pairs[True, True]}, wrong on both "
        f"{pairs[False, False]}, right on real rows only {pairs[True, False]}, on generated only {pairs[False, True]}"
    )
    line("all of the test part", [*known, *found])


if __name__ == "__main__":
    main()
