"""One query from SQLite to PostgreSQL, examined: executed there, converted, executed here, compared."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

import psycopg

from text2sql.postgres.dialect import Rejected, convert_tree
from text2sql.postgres.engines import run_postgres, run_sqlite
from text2sql.postgres.proof import judge
from text2sql.schema import Schema


@dataclass(frozen=True)
class Outcome:
    """What became of a query; `status` and `reason` as in examples.jsonl.

    `empty`: a table that it reads has no rows. `generated`: what came out on generated rows, if that was tried.
    """

    status: str
    reason: str = ""
    postgres: str | None = None
    empty: bool = False
    generated: str = ""

    def with_generated(self, other: Outcome) -> Outcome:
        """This outcome, with what the same query came to on generated rows."""
        equal = other.status.startswith("verified")
        return replace(self, generated=("equal" if equal else other.reason) + (", no rows" if other.empty else ""))


def examine(
    query: str,
    schema: Schema,
    source: sqlite3.Connection,
    connection: psycopg.Connection,
    seconds: float,
    generated: bool = False,
) -> Outcome:
    """Convert `query` and prove it on both databases; `connection` has the database's tables in its search path.

    On `generated` rows `empty` says that the result has none.
    """
    answer = run_sqlite(source, query, seconds)
    if answer.error and not answer.gave_up:
        return Outcome("invalid_source", answer.error)
    try:
        conversion = convert_tree(query, schema)
    except Rejected as error:
        return Outcome("rejected", str(error))
    verdict = judge(conversion, answer, lambda text: run_postgres(connection, text))
    if generated:
        return Outcome(verdict.status, verdict.reason, conversion.sql, empty=not answer.rows)
    if verdict.status.startswith("verified"):
        empty = sorted(t.source for t in schema.tables if t.source in conversion.tables and not t.rows)
        if empty:
            return Outcome("unverifiable", f"no rows in {', '.join(empty)}", conversion.sql, empty=True)
    return Outcome(verdict.status, verdict.reason, conversion.sql)
