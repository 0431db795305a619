"""Stage convert: every gold query in PostgreSQL, both executed, the results compared.

A model learns what its training data say, so no query is passed on that has not been run: an example's status says how
far it is proven, and every example of the source has one line, with the reason where it has no PostgreSQL.

Reads data/source/, data/postgres/databases/ and data/postgres/schema_index.json. Writes data/postgres/examples.jsonl,
metrics/convert.json and metrics/plots/conversion.csv.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from text2sql.config import Seconds, read_params, section
from text2sql.conversion.databases.sqlite import SqliteDatabase, connect_sqlite
from text2sql.conversion.dialect import DEFECT
from text2sql.conversion.examination import Outcome, examine_everywhere
from text2sql.data import custom
from text2sql.data.spider.examples import Example, database_file, source_examples
from text2sql.errors import UserError
from text2sql.files import write_json, write_jsonl, write_text
from text2sql.postgres.server import Server, server
from text2sql.progress import in_parallel
from text2sql.schema import Schema, read_index
from text2sql.scoring.hardness import hardness
from text2sql.stage import run
from text2sql.workspace import DUMPS, EXAMPLES, INDEX, METRICS, PLOTS, SOURCE

REPORT = METRICS / "convert.json"
PLOT = PLOTS / "conversion.csv"
STATUSES = ("verified", "verified_ties", "unverifiable", "rejected", "invalid_source", "missing_database")
KEYS = ("id", "db_id", "question", "sqlite", "postgres", "status", "reason", "hardness", "open")
SHOWN = 5  # examples named in a message
#: in a reason, between what was found on the source's rows and what on generated ones
GENERATED = "; on generated rows: "


@dataclass(frozen=True)
class ConvertOptions:
    """data.convert."""

    timeout_seconds: Seconds


#: a database, its schema if it could be carried over, and the queries on it
Job = tuple[str, Schema | None, tuple[str, ...]]


def examine_database(job: Job, running: Server, seconds: float) -> dict[str, Outcome]:
    """The outcome of each query of a job."""
    db_id, schema, queries = job
    path = database_file(SOURCE, db_id)
    try:
        source = SqliteDatabase(path, connect_sqlite(path))
        if schema is None:
            raise UserError(f"{path} could not be carried over", "see the stage databases")
    except UserError as error:
        return {query: Outcome("missing_database", error.what) for query in queries}
    with closing(source.connection), (DUMPS / f"{db_id}.sql").open(encoding="utf-8", newline="\n") as lines:
        return examine_everywhere(queries, schema, source, lines, running, seconds)


def example_rows(examples: list[Example], outcomes: dict[tuple[str, str], Outcome]) -> Iterator[dict[str, Any]]:
    """The lines of examples.jsonl, in source order."""
    for example in examples:
        outcome = outcomes[example.db_id, example.sqlite]
        row = dataclasses.asdict(example) | dataclasses.asdict(outcome)
        if outcome.generated:
            row["reason"] += GENERATED + outcome.generated
        row["hardness"] = hardness(example.sqlite, "sqlite") if outcome.status != "invalid_source" else None
        yield {key: row[key] for key in KEYS}


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by status, in all and by split (the source file), and the rates that are promised.

    `generated` counts the examples on tables without rows that were tried on generated ones.
    """
    generated = [line["reason"].partition(GENERATED)[2] for line in lines if GENERATED in line["reason"]]
    by_split: dict[str, Counter[str]] = {}
    for line in lines:
        by_split.setdefault(line["id"].rpartition("-")[0], Counter())[line["status"]] += 1
    total = sum(by_split.values(), Counter())
    convertible = len(lines) - total["invalid_source"] - total["missing_database"]
    proven = total["verified"] + total["verified_ties"]
    comparable = proven + total["rejected"]
    return {
        "examples": len(lines),
        "status": {status: total[status] for status in STATUSES},
        "by_split": {split: {s: counts[s] for s in STATUSES} for split, counts in by_split.items()},
        "convertible": convertible,
        "comparable": comparable,
        "verified_rate": proven / comparable if comparable else 0.0,
        "ties_rate": total["verified_ties"] / comparable if comparable else 0.0,
        "generated": {
            "examples": len(generated),
            "equal": sum(text.startswith("equal") for text in generated),
            "with_rows": sum(not text.endswith("no rows") for text in generated),
        },
        "rejected_rate": total["rejected"] / convertible if convertible else 0.0,
    }


def plot(figures: dict[str, Any]) -> str:
    """Counts of each status by split, as CSV."""
    lines = [f"{split},{s},{counts[s]}" for split, counts in figures["by_split"].items() for s in STATUSES]
    return "\n".join(["split,status,examples", *lines]) + "\n"


def read_options(params: dict[str, Any]) -> ConvertOptions:
    """The stage's part of params.yaml."""
    return section(ConvertOptions, "data.convert", params)


def converted(options: ConvertOptions) -> list[dict[str, Any]]:
    """The lines of examples.jsonl for data in Spider's layout."""
    examples, schemas = list(source_examples(SOURCE)), read_index(INDEX)
    queries: dict[str, dict[str, None]] = {}
    for example in examples:
        queries.setdefault(example.db_id, {})[example.sqlite] = None
    # Those with most queries first, so that no worker is left alone at the end.
    db_ids = sorted(queries, key=lambda db_id: (-len(queries[db_id]), db_id))
    todo: list[Job] = [(db_id, schemas.get(db_id), tuple(queries[db_id])) for db_id in db_ids]
    outcomes: dict[tuple[str, str], Outcome] = {}
    with server() as running:
        work = functools.partial(examine_database, running=running, seconds=options.timeout_seconds)
        for db_id, of_database in zip(db_ids, in_parallel(work, todo, "queries"), strict=True):
            outcomes |= {(db_id, query): outcome for query, outcome in of_database.items()}
    return list(example_rows(examples, outcomes))


def main() -> str:
    options = read_options(read_params())
    started = time.perf_counter()
    lines = custom.own_examples(SOURCE)
    if not lines or (SOURCE / "tables.json").exists():  # one's own need no conversion; others may lie beside them
        lines += converted(options)
    write_jsonl(EXAMPLES, lines)
    figures = summary(lines)
    write_text(PLOT, plot(figures))
    write_json(REPORT, {**figures, "seconds": round(time.perf_counter() - started, 1)})
    if defects := [line["id"] for line in lines if line["reason"].startswith(DEFECT)]:
        named = ", ".join(defects[:SHOWN]) + (f" and {len(defects) - SHOWN} more" if len(defects) > SHOWN else "")
        raise UserError(
            f"a rule of the conversion failed on {named}",
            f"the tracebacks above and `reason` in {EXAMPLES} say where: mend the rule, or report the query",
        )
    counts = ", ".join(f"{n} {status}" for status, n in figures["status"].items() if n)
    return f"{len(lines)} examples: {counts}"


if __name__ == "__main__":
    run(main)
