"""Executing a query on SQLite and its conversion on PostgreSQL, within limits, for comparison.

Both sides are gold data of the data set's makers, not a model's output: see sandbox.py for that.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg

#: a result of more rows is not compared; a cross join by mistake has millions
MOST_ROWS = 200_000
#: SQLite looks at the clock after so many steps of its machine
STEPS = 20_000
_FORBIDDEN = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}


@dataclass(frozen=True)
class Answer:
    """Rows, or why there are none. `gave_up`: the limit of time or rows was reached, which proves nothing."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    error: str = ""
    gave_up: bool = False


def guard(source: sqlite3.Connection, connection: psycopg.Connection, seconds: float) -> None:
    """From here on queries only read `source`, open no other file, and are cancelled on PostgreSQL after `seconds`."""
    source.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in _FORBIDDEN else sqlite3.SQLITE_OK)
    connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")


def run_sqlite(connection: sqlite3.Connection, query: str, seconds: float) -> Answer:
    """Execute one query on SQLite, interrupted after `seconds`."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
    try:
        rows = connection.execute(query).fetchmany(MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if "interrupted" in str(error):
            return Answer(error=f"SQLite: no answer in {seconds:g} s", gave_up=True)
        return Answer(error=f"SQLite: {error}")
    finally:
        connection.set_progress_handler(None, 0)
    return _limited(rows, "SQLite")


def run_postgres(connection: psycopg.Connection, query: str) -> Answer:
    """Execute one query on PostgreSQL inside the open transaction, which stays usable if it fails."""
    try:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(query.encode(), prepare=False)
            rows = cursor.fetchmany(MOST_ROWS + 1) if cursor.description else []
    except psycopg.errors.QueryCanceled:
        return Answer(error="PostgreSQL: no answer in time", gave_up=True)
    except psycopg.Error as error:
        return Answer(error=f"PostgreSQL: {str(error).splitlines()[0]}")
    return _limited(rows, "PostgreSQL")


def _limited(rows: list[tuple[Any, ...]], engine: str) -> Answer:
    if len(rows) > MOST_ROWS:
        return Answer(error=f"{engine}: more than {MOST_ROWS:,} rows", gave_up=True)
    return Answer(rows)
