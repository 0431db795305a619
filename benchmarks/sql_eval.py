"""A release on sql-eval: 190 questions in PostgreSQL as people write it, none of them trained on.

    python -m benchmarks.sql_eval --model models/release          answers, as `text2sql ask` does, and scores
    python -m benchmarks.sql_eval --model models/release --run    the same as `text2sql ask --run`: with second tries
    python -m benchmarks.sql_eval --predictions data/predictions/test.jsonl      scores what `data=sql_eval` predicted

Prints accuracy by category: as the authors of sql-eval count, and by the suite verdict of this project against any of
a question's golds. Writes every verdict to --out.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from text2sql.ask.catalog import Target
from text2sql.ask.engine import Engine, PlacedSchema
from text2sql.config import compose, parse_yaml, section
from text2sql.data.custom import FOLDER, Row
from text2sql.data.sql_eval import SqlEval, pinned
from text2sql.errors import UserError, exits
from text2sql.files import read_jsonl, write_jsonl
from text2sql.postgres.compare import Result, suite
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.progress import track
from text2sql.schema import Schema, read_index
from text2sql.scoring.figures import wilson


def judge_sql_eval(folder: Path, predictions: Mapping[str, str], today: str) -> list[Row]:
    """Predictions executed and compared with every gold: the authors' verdict and ours (suite), by question.

    Args:
        folder: data/source/postgres of this data set.
        predictions: SQL by the id of the question.

    Returns:
        rows with `id`, `db_id`, `category`, `question`, `predicted`, `authors`, `suite`, `error`.
    """
    examples = [row for row in read_jsonl(folder / "examples.jsonl") if row["id"] in predictions]
    databases = sorted({row["db_id"] for row in examples})
    judged = []
    with loaded_sandbox(databases, folder, Limits(), 1) as sandbox:
        for row in track(examples, "verdicts", len(examples)):
            predicted = executed(sandbox, row["db_id"], today, predictions[row["id"]])
            golds = [(sql, sandbox.execute(row["db_id"], sql)) for sql in row["golds"]]
            verdicts = {
                "authors": any(authors_verdict(g, predicted, row["category"], row["question"]) for _, g in golds),
                "suite": any(not g.error and suite(g, predicted, sql).correct for sql, g in golds),
                "error": predicted.error,
            }
            kept = {key: row[key] for key in ("id", "db_id", "category", "question")}
            judged.append(kept | {"predicted": predictions[row["id"]]} | verdicts)
    return judged


def authors_verdict(gold: Result, predicted: Result, category: str, question: str) -> bool:
    """Whether sql-eval counts a prediction as correct (its `compare_df` or `subset_df`), for one of the golds.

    Either both have the same rows, or every column of the gold has one of its own in the prediction with the same
    values, and the rows of these columns are the same. Rows that occur twice count once, column names and their order
    do not matter, numbers may differ by 1 in 100,000. The order of rows counts where the category is order_by or the
    question has the word order, sort or arrange; not among rows that are sorted by a column anyway.
    """
    if gold.error or predicted.error:
        return False
    left, right = ([[_plain(v) for v in row] for row in result.rows] for result in (gold, predicted))
    width, other = len(gold.columns), len(predicted.columns)
    ordered = category == "order_by" or bool(re.search(r"\b(order|sort|arrange)\b", question.lower()))
    if width == other and _equal(_by_name(left, gold.columns, ordered), _by_name(right, predicted.columns, ordered)):
        return True
    if not left:
        return False
    matched: list[int] = []
    for i in range(width):
        column = sorted((row[i] for row in left), key=_key)
        free = (j for j in range(other) if j not in matched)
        match = (j for j in free if _equal([column], [sorted((row[j] for row in right), key=_key)]))
        if (j := next(match, None)) is None:
            return False
        matched.append(j)
    taken = [[row[j] for j in matched] for row in right]
    return _equal(_by_name(left, gold.columns, ordered), _by_name(taken, gold.columns, ordered))


def _by_name(rows: Sequence[Sequence[Any]], names: Sequence[str], ordered: bool) -> list[list[Any]]:
    """Rows without duplicates, columns by their names, sorted as far as their order is not asked for."""
    places = sorted(range(len(names)), key=lambda i: names[i])
    unique = list({tuple(map(_key, row)): [row[i] for i in places] for row in rows}.values())
    columns = range(len(places))
    if ordered:
        keys = [[_key(row[i]) for row in unique] for i in columns]
        rising = [i for i in columns if keys[i] == sorted(keys[i])]
        if not rising:
            return unique
        columns = [*rising, *(i for i in columns if i not in rising)]
    return sorted(unique, key=lambda row: [_key(row[i]) for i in columns])


def _equal(left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> bool:
    """Whether two tables have the same cells."""
    same_shape = [len(row) for row in left] == [len(row) for row in right]
    return same_shape and all(
        _same(a, b) for row, other in zip(left, right, strict=True) for a, b in zip(row, other, strict=True)
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-8 + 1e-5 * abs(b)
    return type(a) is type(b) and a == b


def _plain(value: Any) -> Any:
    """Numbers of every type as floats, texts and the rest as they are; what cannot be compared as text."""
    if isinstance(value, bool | int | float | Decimal):
        return float(value)
    return value if value is None or isinstance(value, str) else str(value)


def _key(value: Any) -> tuple[bool, str, Any]:
    """A sort key for values of any type; NULL comes last."""
    return (value is None, type(value).__name__, 0 if value is None else value)


# --- Answers and figures --------------------------------------------------------------------------------------------


def answers(folder: Path, today: str, options: argparse.Namespace) -> dict[str, str]:
    """The model's SQL for each question; none where the schema is too large for it."""
    engine = Engine.load(options.model, print)
    schemas = {db_id: read_whole(schema) for db_id, schema in read_index(folder / "schema_index.json").items()}
    given = {}
    rows = list(read_jsonl(folder / "examples.jsonl"))[: options.limit]
    databases = sorted({row["db_id"] for row in rows})
    with loaded_sandbox(databases, folder, Limits(), 1) if options.run else nullcontext() as sandbox:
        for row in track(rows, "questions", len(rows)):
            question, db_id = row["question"], row["db_id"]
            execute = partial(executed, sandbox, db_id, today) if sandbox else None
            try:
                answer = engine.ask(
                    question, schemas[db_id], candidates=options.candidates, execute=execute, run=options.run
                )
                given[row["id"]] = answer.sql
            except UserError as error:
                print(f"{row['id']}: {error.what}")
                given[row["id"]] = ""
    return given


def read_whole(schema: Schema) -> PlacedSchema:
    """The schema as `text2sql ask` reads it off a server: with all values of its columns, to which texts are held."""
    return PlacedSchema(**vars(schema), target=Target.of_whole(schema))


def executed(sandbox: Sandbox, db_id: str, today: str, sql: str) -> Result:
    """The result of a query on the day `today`."""
    return sandbox.execute(db_id, pinned(sql, today))


def configured(folder: str | None) -> SqlEval:
    """sql-eval as conf/data/sql_eval.yaml has it, its files in `folder` if that is given."""
    overrides = ["data=sql_eval"] + ([f"data.source.folder={folder}"] if folder else [])
    return section(SqlEval, "data.source", parse_yaml(compose(overrides)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a release, as text2sql ask takes it")
    source.add_argument("--predictions", type=Path, help="predictions of the stage predict")
    parser.add_argument("--candidates", type=int, default=1, help="answers of which the likeliest is taken")
    parser.add_argument("--run", action="store_true", help="execute answers, with second tries")
    parser.add_argument("--limit", type=int, help="so many questions only")
    parser.add_argument("--folder", help="where the files of sql-eval are (default: as in conf/data/sql_eval.yaml)")
    parser.add_argument("--out", type=Path, default=Path("sql_eval.jsonl"), help="the verdicts")
    options = parser.parse_args()
    data = configured(options.folder)
    with tempfile.TemporaryDirectory() as temporary:
        data.make(1, Path(temporary))
        folder = Path(temporary) / FOLDER
        if options.model:
            given = answers(folder, data.today, options)
        else:
            given = {row["id"]: row["predicted"] for row in read_jsonl(options.predictions)}
        judged = judge_sql_eval(folder, given, data.today)
    write_jsonl(options.out, judged)
    groups = defaultdict(list)
    for row in judged:
        groups[row["category"]].append(row)
    print(f"{'category':16}{'n':>5}{'authors':>10}{'suite':>8}")
    for name, rows in [*sorted(groups.items()), ("all", judged)]:
        shares = [100 * sum(row[key] for row in rows) / len(rows) for key in ("authors", "suite")]
        print(f"{name:16}{len(rows):5}{shares[0]:9.1f}%{shares[1]:7.1f}%")
    low, high = wilson(sum(row["authors"] for row in judged), len(judged))
    print(f"95 % of the authors' verdict: {100 * low:.1f}% to {100 * high:.1f}%")


if __name__ == "__main__":
    with exits("sql_eval"):
        main()
