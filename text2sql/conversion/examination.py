"""One query from SQLite to PostgreSQL, examined: executed there, converted, executed here, compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from text2sql.conversion.databases import describe, open_source
from text2sql.conversion.databases.dump import dump
from text2sql.conversion.dialect import RULES_FOR_FIRST_ROWS, Rejected, convert_tree
from text2sql.conversion.engines import connect_as_text, gave_up, guard, run_postgres, run_sqlite
from text2sql.conversion.proof import prove
from text2sql.postgres.load import loaded
from text2sql.postgres.server import Server
from text2sql.postgres.server import server as running
from text2sql.schema import Schema

#: PostgreSQL's words (in the C locale of the server's messages) where SQLite takes the first row
SEVERAL_ROWS = "more than one row returned by a subquery used as an expression"


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
    if answer.error and not gave_up(answer):
        return Outcome("invalid_source", answer.message)
    try:
        conversion = convert_tree(query, schema)
    except Rejected as error:
        return Outcome("rejected", str(error))
    proof = prove(conversion, answer, lambda text: run_postgres(connection, text))
    if SEVERAL_ROWS in proof.reason:
        conversion = convert_tree(query, schema, RULES_FOR_FIRST_ROWS)
        proof = prove(conversion, answer, lambda text: run_postgres(connection, text))
    if generated:
        return Outcome(proof.status, proof.reason, conversion.sql, empty=not answer.rows)
    if proof.status.startswith("verified"):
        empty = sorted(t.source for t in schema.tables if t.source in conversion.tables and not t.rows)
        if empty:
            return Outcome("unverifiable", f"no rows in {', '.join(empty)}", conversion.sql, empty=True)
    return Outcome(proof.status, proof.reason, conversion.sql)


def examine_all(
    queries: Iterable[str],
    schema: Schema,
    source: sqlite3.Connection,
    lines: Iterable[str],
    server: Server,
    seconds: float,
    generated: bool = False,
) -> dict[str, Outcome]:
    """The outcomes of `queries`, on a database that is loaded from the `lines` of its dump for as long as it takes."""
    with closing(connect_as_text(server.dsn())) as connection, loaded(connection, schema, lines):
        guard(source, connection, seconds)
        try:
            return {query: examine(query, schema, source, connection, seconds, generated) for query in queries}
        finally:
            source.set_authorizer(None)


def split_statements(text: str) -> list[str]:
    """The statements of an SQL script, as they are written there; without a semicolon each line is one.

    >>> split_statements("SELECT ';'; SELECT 2")
    ["SELECT ';'", 'SELECT 2']
    """
    if ";" not in text:
        return [line.strip() for line in text.splitlines() if line.strip()]
    statements, start = [], 0
    for place, character in enumerate(text):
        if character == ";" and sqlite3.complete_statement(text[start : place + 1]):
            statements.append(text[start:place].strip())
            start = place + 1
    return [s for s in [*statements, text[start:].strip()] if s]


def convert_script(path: Path, text: str, seconds: float) -> tuple[Schema, list[tuple[str, Outcome]]]:
    """Carry a SQLite database over to a private PostgreSQL, and examine each query of a script there.

    Raises:
        UserError: the database cannot be read.
    """
    queries = split_statements(text)
    with open_source(path) as source, running() as server:
        schema = describe(source, "source")
        lines = "".join(dump(source, schema)).splitlines(keepends=True)
        outcomes = examine_all(queries, schema, source.connection, lines, server, seconds)
    return schema, [(query, outcomes[query]) for query in queries]
