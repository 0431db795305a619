"""A release on sql-eval: 190 questions in PostgreSQL as people write it, none of them trained on.

    python -m benchmarks.sql_eval --model models/release          answers and scores
    python -m benchmarks.sql_eval --predictions data/predictions/test.jsonl      scores what `data=sql_eval` predicted

Prints accuracy by category: as the authors of sql-eval count, and by the suite verdict of this project against any of
a question's golds. Writes every verdict to --out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

from text2sql.config import compose, parse_yaml, section
from text2sql.data.custom import FOLDER
from text2sql.data.sql_eval import SqlEval, judge_sql_eval
from text2sql.errors import UserError
from text2sql.files import read_jsonl, write_jsonl
from text2sql.progress import track
from text2sql.schema import read_index
from text2sql.scoring.figures import wilson


def answers(model: str, folder: Path, limit: int | None, candidates: int) -> dict[str, str]:
    """The model's SQL for each question; none where the schema is too large for it."""
    from text2sql.ask import Engine

    engine = Engine.load(model, print)
    schemas = read_index(folder / "schema_index.json")
    given = {}
    rows = list(read_jsonl(folder / "examples.jsonl"))[:limit]
    for row in track(rows, "questions", len(rows)):
        try:
            given[row["id"]] = engine.ask(row["question"], schemas[row["db_id"]], candidates=candidates).sql
        except UserError as error:
            print(f"{row['id']}: {error.what}")
            given[row["id"]] = ""
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a release, as text2sql ask takes it")
    source.add_argument("--predictions", type=Path, help="predictions of the stage predict")
    parser.add_argument("--candidates", type=int, default=1, help="answers of which the likeliest is taken")
    parser.add_argument("--limit", type=int, help="so many questions only")
    parser.add_argument("--folder", help="where the files of sql-eval are (default: as in conf/data/sql_eval.yaml)")
    parser.add_argument("--out", type=Path, default=Path("sql_eval.jsonl"), help="the verdicts")
    options = parser.parse_args()
    overrides = ["data=sql_eval"] + ([f"data.source.folder={options.folder}"] if options.folder else [])
    data = section(SqlEval, "data.source", parse_yaml(compose(overrides)))
    with tempfile.TemporaryDirectory() as temporary:
        data.make(1, Path(temporary))
        folder = Path(temporary) / FOLDER
        if options.model:
            given = answers(options.model, folder, options.limit, options.candidates)
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
    main()
