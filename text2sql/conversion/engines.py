"""Executing a query on SQLite and its conversion on PostgreSQL, within limits, for comparison.

Both sides are gold data of the data set's makers, not a model's output: see sandbox.py for that.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.types.string import TextLoader

from text2sql.conversion.databases.encode import as_bytes, as_text
from text2sql.conversion.databases.infer import INTEGER_TEXT, plain_moment, text_form
from text2sql.postgres.compare import Result, Row, Rows

#: a result of more rows is not compared; a cross join by mistake has millions
MOST_ROWS = 200_000
#: SQLite looks at the clock after so many steps of its machine
STEPS = 20_000
#: PostgreSQL's types whose values SQLite holds as text
TEXTUAL = ("date", "timestamp", "timestamptz", "time", "interval", "uuid", "json")


def connect_as_text(dsn: str) -> psycopg.Connection:
    """A connection that reads dates and times as text, which they are in SQLite."""
    connection = psycopg.connect(dsn)
    for name in TEXTUAL:
        connection.adapters.register_loader(name, TextLoader)
    return connection


def limit(connection: psycopg.Connection, seconds: float) -> None:
    """From here on to the end of the transaction PostgreSQL cancels each query after `seconds`."""
    connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")


def run_sqlite(connection: sqlite3.Connection, query: str, seconds: float) -> Result:
    """Execute one query on SQLite, interrupted after `seconds`.

    Raises:
        KeyboardInterrupt: a signal interrupted it before.
    """
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
    try:
        cursor = connection.execute(query)
        rows = cursor.fetchmany(MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if "interrupted" in str(error):
            if time.monotonic() < deadline:  # sqlite3 passes over what a signal raises in the handler (Ctrl-C)
                raise KeyboardInterrupt from None
            return Result(error="timeout", message=f"SQLite: no answer in {seconds:g} s")
        return Result(error="failed", message=f"SQLite: {error}")
    finally:
        connection.set_progress_handler(None, 0)
    return _limited(cursor.description or (), rows, "SQLite")


def run_postgres(connection: psycopg.Connection, query: str) -> Result:
    """Execute one query on PostgreSQL inside the open transaction, which stays usable if it fails."""
    try:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(query.encode(), prepare=False)
            rows = cursor.fetchmany(MOST_ROWS + 1) if cursor.description else []
            return _limited(cursor.description or (), rows, "PostgreSQL")
    except psycopg.errors.QueryCanceled:
        return Result(error="timeout", message="PostgreSQL: no answer in time")
    except psycopg.Error as error:
        if connection.closed:  # the server is gone, which says nothing of the query
            raise
        return Result(error="failed", message=f"PostgreSQL: {str(error).splitlines()[0]}")


def _limited(columns: Iterable[Any], rows: list[Row], engine: str) -> Result:
    if len(rows) > MOST_ROWS:
        return Result(error="too_many_rows", message=f"{engine}: more than {MOST_ROWS:,} rows")
    return Result(tuple(column[0] for column in columns), rows)


def gave_up(result: Result) -> bool:
    """Whether a limit of time or rows was reached, which proves nothing."""
    return result.error in ("timeout", "too_many_rows")


def as_stored(sqlite: Rows, postgres: Rows) -> Rows:
    """SQLite's rows with each value as PostgreSQL holds it, for comparison with PostgreSQL's rows of the same columns.

    SQLite types values, PostgreSQL columns: where a column holds numbers and texts it is `text` there, so a number is
    read as the text that SQLite writes for it; where a key of texts is held as integers, such a text is read as one.
    """
    readers = [_reader(column) for column in zip(*postgres, strict=True)]
    if not any(readers):
        return sqlite
    return [tuple(r(v) if r and v is not None else v for r, v in zip(readers, row, strict=False)) for row in sqlite]


def _reader(column: Sequence[Any]) -> Callable[[Any], Any] | None:
    """What reads a value of SQLite as one of this column of PostgreSQL (its values, or arrays of them)."""
    values = [v for value in column for v in (value if isinstance(value, list) else [value]) if v is not None]
    first = values[0] if values else None
    if isinstance(first, str):
        timestamps = text_form(first) in ("timestamp", "time") and all(plain_moment(value) == value for value in values)
        return (lambda value: plain_moment(as_text(value))) if timestamps else as_text
    if isinstance(first, bytes | memoryview):
        return as_bytes
    return _as_number if isinstance(first, int | float | Decimal) else None


def _as_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and INTEGER_TEXT.match(value) else value
