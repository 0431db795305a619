"""One query from SQLite to PostgreSQL, examined: executed there, converted, executed here, compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from text2sql.conversion.databases import SqliteDatabase, describe, open_source
from text2sql.conversion.databases.dump import dump
from text2sql.conversion.dialect import RULES_FOR_FIRST_ROWS, Rejected, convert_tree, with_blanks_as_null
from text2sql.conversion.engines import connect_as_text, gave_up, limit, run_postgres, run_sqlite
from text2sql.conversion.proof import Outcome, prove
from text2sql.conversion.queries import statements_of
from text2sql.errors import UserError
from text2sql.postgres.alternatives import is_open
from text2sql.postgres.compare import Result
from text2sql.postgres.load import loaded
from text2sql.postgres.server import Server, server
from text2sql.schema import Schema

#: PostgreSQL's words (in the C locale of the server's messages) where SQLite takes the first row
SEVERAL_ROWS = "more than one row returned by a subquery used as an expression"


@dataclass(frozen=True)
class Engines:
    """One database on both engines. `blanked` is SQLite's with NULL for the empty texts that are NULL in PostgreSQL,
    None if there are none."""

    schema: Schema
    sqlite: sqlite3.Connection
    blanked: sqlite3.Connection | None
    postgres: psycopg.Connection
    seconds: float

    def execute(self, sql: str) -> Result:
        """The result on PostgreSQL."""
        return run_postgres(self.postgres, sql)


@contextmanager
def both_engines(
    schema: Schema, source: SqliteDatabase, dumped: Iterable[str], running: Server, seconds: float
) -> Iterator[Engines]:
    """Both engines, PostgreSQL's loaded from the dump, for the length of the block."""
    blanked = source.with_nulls({t.source: [c.source for c in t.columns if c.blanks_are_null] for t in schema.tables})
    with (
        nullcontext() if blanked is None else closing(blanked),
        closing(connect_as_text(running.dsn())) as connection,
        loaded(connection, schema.db_id, dumped),
    ):
        limit(connection, seconds)
        yield Engines(schema, source.connection, blanked, connection, seconds)


def examine(query: str, on: Engines, generated: bool = False) -> Outcome:
    """Convert `query` and prove it on both engines; on `generated` rows every table has some."""
    answer = run_sqlite(on.sqlite, query, on.seconds)
    if answer.error and not gave_up(answer):
        return Outcome("invalid_source", answer.message)
    try:
        conversion = convert_tree(query, on.schema)
        outcome = prove(conversion, answer, on.execute)
        if SEVERAL_ROWS in outcome.reason:
            conversion = convert_tree(query, on.schema, RULES_FOR_FIRST_ROWS)
            outcome = prove(conversion, answer, on.execute)
    except Rejected as error:
        return Outcome("rejected", str(error))
    if outcome.status == "rejected" and conversion.blanks and on.blanked is not None:
        answer = run_sqlite(on.blanked, with_blanks_as_null(query, on.schema), on.seconds)
        again = prove(conversion, answer, on.execute) if not answer.error else outcome
        if again.status.startswith("verified"):
            taken = f"'' in {', '.join(conversion.blanks)} taken as NULL"
            outcome = replace(again, reason="; ".join(filter(None, (again.reason, taken))))
    outcome = replace(outcome, postgres=conversion.sql)
    if not outcome.status.startswith("verified"):
        return outcome
    outcome = replace(outcome, open=is_open(conversion.sql, on.execute))
    without_rows = sorted(t.source for t in on.schema.tables if t.source in conversion.tables and not t.rows)
    if without_rows and not generated:
        return replace(outcome, status="unverifiable", reason=f"no rows in {', '.join(without_rows)}", empty="table")
    if not answer.rows:
        status = outcome.status if generated else "unverifiable"
        return replace(outcome, status=status, reason="no rows in the result", empty="result")
    return outcome


def examine_everywhere(
    queries: Iterable[str],
    schema: Schema,
    source: SqliteDatabase,
    dumped: Iterable[str],
    running: Server,
    seconds: float,
) -> dict[str, Outcome]:
    """The outcomes of `queries` on a database; of those that find no rows there, on generated rows as well."""
    from text2sql.conversion.synthetic import fill, without_constraints

    with both_engines(schema, source, dumped, running, seconds) as on:
        outcomes = {query: examine(query, on) for query in queries}
    if empty := [query for query, outcome in outcomes.items() if outcome.empty]:
        schema = without_constraints(schema)
        filled = fill(source, schema, empty)
        dumped = dump(filled, schema)
        try:
            with closing(filled.connection), both_engines(schema, filled, dumped, running, seconds) as on:
                generated = {query: examine(query, on, generated=True) for query in empty}
        except UserError as error:  # the generated rows are too long for a table of very many columns
            generated = dict.fromkeys(empty, Outcome("rejected", error.what, empty="table"))
        outcomes |= {query: outcomes[query].with_generated(other) for query, other in generated.items()}
        for note in filled.notes:
            source.note(note)
    return outcomes


def convert_script(path: Path, text: str, seconds: float) -> tuple[Schema, list[tuple[str, Outcome]]]:
    """Carry a SQLite database over to a private PostgreSQL, and examine each query of a script there.

    Raises:
        UserError: the database cannot be read.
    """
    queries = statements_of(text)
    with open_source(path) as source, server() as running:
        schema = describe(source, "source")
        outcomes = examine_everywhere(queries, schema, source, dump(source, schema), running, seconds)
        schema = replace(schema, notes=tuple(source.notes))
    return schema, [(query, outcomes[query]) for query in queries]
