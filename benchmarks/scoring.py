"""What scoring takes, and whether its verdicts hold: gold queries as predictions, and golds shuffled within databases.

    python benchmarks/scoring.py [FOLDER] [--workers 2]

FOLDER (data/postgres) is what the stages databases and convert have made: examples.jsonl and databases/. With
data=spider these are the 1,034 dev questions of Spider, with the embedded data its test questions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from stages.score import ScoreOptions
from text2sql.files import read_jsonl
from text2sql.postgres.compare import Result, strip_distinct, suite
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Sandbox
from text2sql.scoring.predictions import judge_predictions

HANGING = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b"


def questions(folder: Path) -> list[dict[str, Any]]:
    """The test questions whose gold query PostgreSQL has."""
    rows = [row for row in read_jsonl(folder / "examples.jsonl") if row["id"].startswith("dev-") and row["postgres"]]
    keys = ("id", "db_id", "question", "hardness")
    return [{**{key: row[key] for key in keys}, "gold": row["postgres"], "predicted": row["postgres"]} for row in rows]


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question with the gold query of another one on the same database (drawn with a fixed seed)."""
    draw = random.Random(0)
    out = []
    for name in dict.fromkeys(row["db_id"] for row in rows):
        group = [row for row in rows if row["db_id"] == name]
        others = draw.sample(group, len(group))
        shifted = [*others[1:], others[0]]
        out += [{**row, "predicted": other["gold"]} for row, other in zip(others, shifted, strict=True)]
    return out


def explanation(sandbox: Sandbox, row: dict[str, Any]) -> str:
    """Why the gold queries of two questions are judged equal, from their results and without compare.py."""
    gold, other = row["gold"], row["predicted"]
    if " ".join(gold.lower().split()) == " ".join(other.lower().split()):
        return "the same query, for a question asked in other words"
    results = [sandbox.execute(row["db_id"], strip_distinct(sql)) for sql in (gold, other)]
    bags = [Counter(tuple(sorted(map(plain, line))) for line in result.rows) for result in results]
    if bags[0] != bags[1]:
        return "UNEXPLAINED"
    if not bags[0]:
        return "both results are empty"
    if len(results[0].rows) == 1:
        return "one row with the same values"
    return "the same rows from different queries"


def plain(value: Any) -> str:
    """A value as text, numbers alike whatever their type."""
    return f"{float(value):.6g}" if isinstance(value, int | float) or hasattr(value, "as_tuple") else repr(value)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def score(rows: list[dict[str, Any]], folder: Path, options: ScoreOptions) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds in all, seconds until the databases are loaded, rows with verdicts."""
    started = time.perf_counter()
    databases = sorted({row["db_id"] for row in rows})
    with loaded_sandbox(databases, folder / "databases", options.limits(), options.workers) as sandbox:
        loaded = time.perf_counter() - started
        judged, _ = judge_predictions(sandbox, rows, options.workers)
    return time.perf_counter() - started, loaded, judged


def overhead(sandbox: Sandbox, database: str) -> tuple[float, float]:
    """Median milliseconds of SELECT 1 in the sandbox, and by a bare connection."""
    with psycopg.connect(sandbox.server.dsn(database), autocommit=True) as connection:
        pairs = [
            (
                timed(lambda: sandbox.execute(database, "SELECT 1"))[0],
                timed(lambda: connection.execute("SELECT 1").fetchall())[0],
            )
            for _ in range(1000)
        ]
    inside, bare = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    return inside, bare


def comparison(rows: int = 100_000) -> float:
    """Seconds to compare 100,000 rows of five columns, shuffled, with columns permuted and floats that differ in the
    tenth digit."""
    draw = random.Random(0)
    gold = [(i, f"name {i % 500}", draw.random(), i % 7, draw.choice([None, "x"])) for i in range(rows)]
    other = [(e, d, c * (1 + 1e-10), b, a) for a, b, c, d, e in draw.sample(gold, rows)]
    seconds, verdict = timed(lambda: suite(Result(tuple("abcde"), gold), Result(tuple("vwxyz"), other), "SELECT 1"))
    assert verdict.correct
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/postgres"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    options = ScoreOptions(timeout_seconds=10.0, max_rows=100_000, workers=arguments.workers, examples=10)
    rows = questions(arguments.folder)

    seconds, loading, judged = score(rows, arguments.folder, options)
    scored = [row for row in judged if row["verdict_suite"] is not None]
    hanging = [{**rows[0], "predicted": HANGING}, *rows[1:]]
    seconds_hanging, _, judged_hanging = score(hanging, arguments.folder, options)
    databases = sorted({row["db_id"] for row in rows})
    with loaded_sandbox(databases, arguments.folder / "databases", options.limits(), options.workers) as sandbox:
        mixed, _ = judge_predictions(sandbox, shuffled(rows), options.workers)
        matches = [row for row in mixed if row["verdict_suite"]]
        reasons = Counter(explanation(sandbox, row) for row in matches)
        inside, bare = overhead(sandbox, rows[0]["db_id"])

    table = Table("figure", "value", title="Scoring")
    for name, value in [
        ("questions", f"{len(rows)}"),
        ("databases", f"{len({row['db_id'] for row in rows})}"),
        ("workers", f"{options.workers}"),
        ("seconds, in all", f"{seconds:.1f}"),
        ("  of these: server and databases", f"{loading:.1f}"),
        ("seconds with one hanging prediction", f"{seconds_hanging:.1f} (its timeout: {options.timeout_seconds:g})"),
        ("  its verdict", f"{judged_hanging[0]['reason']}"),
        ("gold queries that fail (excluded)", f"{len(rows) - len(scored)}"),
        ("gold as prediction, suite", f"{sum(row['verdict_suite'] for row in scored) / len(scored):.2%}"),
        ("gold as prediction, strict", f"{sum(row['verdict_strict'] for row in scored) / len(scored):.2%}"),
        ("gold of another question, suite", f"{len(matches) / len(scored):.2%} ({len(matches)})"),
        *[(f"  {reason}", str(n)) for reason, n in reasons.most_common()],
        ("gold of another question, strict", f"{sum(bool(r['verdict_strict']) for r in mixed) / len(scored):.2%}"),
        ("sandbox, ms per query (median)", f"{inside:.2f}, bare connection {bare:.2f}"),
        ("comparing 100,000 rows, seconds", f"{comparison():.1f}"),
    ]:
        table.add_row(name, value)
    Console().print(table)
    for row in judged:
        if row["verdict_suite"] is not None and not (row["verdict_suite"] and row["verdict_strict"]):
            print(f"gold differs from itself: {row['id']} {row['reason']} {row['gold']}")
    for row in matches:
        if row["gold"] != row["predicted"]:
            print(f"match: {row['id']} ({row['db_id']}) {row['gold']}  ~  {row['predicted']}")


if __name__ == "__main__":
    main()
