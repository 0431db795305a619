"""Dumps loaded into a server: one, or all of the pipeline's with a sandbox on them, for scoring and guided decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from text2sql.errors import UserError
from text2sql.postgres.sandbox import Limits, Sandbox
from text2sql.postgres.server import Server, server
from text2sql.progress import track

END_OF_DATA = "\\.\n"


def load_dump(server: Server, dump: Path, database: str) -> None:
    """Create `database` on `server` and load the dump into it."""
    server.create_database(database)
    with psycopg.connect(server.dsn(database)) as connection, dump.open(encoding="utf-8", newline="\n") as lines:
        run_script(connection, lines)


@contextmanager
def loaded(connection: psycopg.Connection, db_id: str, dump: Iterable[str]) -> Iterator[None]:
    """The tables of a database's dump in a schema of their own, first in the search path, for the length of the block.

    All within one transaction that is rolled back: much cheaper than a database for each dump, where only this
    connection has to see it.

    Raises:
        UserError: PostgreSQL cannot hold the rows.
    """
    name = sql.Identifier(f"_{db_id}")  # a database of any name: the server's own are called public, pg_catalog
    try:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET LOCAL search_path = {}").format(name))
        run_script(connection, dump)
        yield
    except psycopg.errors.ProgramLimitExceeded as error:
        what = f"PostgreSQL cannot hold the database: {error.diag.message_primary} ({error.diag.context})"
        raise UserError(what, "leave out that table, or some of its columns") from None
    finally:
        connection.rollback()


def run_script(connection: psycopg.Connection, dump: Iterable[str]) -> None:
    """Execute a dump, given line by line or, apart from rows, statement by statement; the transaction is left open."""
    lines = iter(dump)
    statement = ""
    for line in lines:
        if not statement and line.startswith("--"):
            continue
        statement = (statement + line).lstrip()
        if not statement.endswith(";\n"):
            continue
        if statement.startswith("COPY "):
            with connection.cursor().copy(statement) as copy:
                for data in iter(lambda: next(lines), END_OF_DATA):
                    copy.write(data)
        else:
            connection.execute(statement)
        statement = ""


@contextmanager
def loaded_sandbox(databases: Sequence[str], dumps: Path, limits: Limits, workers: int) -> Iterator[Sandbox]:
    """A sandbox on a new server that has these databases, from the dumps in a folder, loaded `workers` at a time.

    Raises:
        UserError: one has no dump.
    """
    with server() as running, sandbox_with(running, databases, dumps, limits, workers) as sandbox:
        yield sandbox


@contextmanager
def sandbox_with(
    running: Server, databases: Sequence[str], dumps: Path, limits: Limits, workers: int
) -> Iterator[Sandbox]:
    """As `loaded_sandbox`, on a running server, from which the databases are dropped at the end of the block."""
    for name in databases:
        if not (dumps / f"{name}.sql").exists():
            raise UserError(f"{dumps / name}.sql is missing", "run `dvc repro databases`, which makes it")
    # The largest first, so that none is left over for one worker at the end.
    order = sorted(databases, key=lambda name: -(dumps / f"{name}.sql").stat().st_size)
    with ThreadPoolExecutor(workers) as pool:
        loads = pool.map(lambda name: load_dump(running, dumps / f"{name}.sql", name), order)
        for _ in track(loads, "loading databases", len(order)):
            pass
        with Sandbox(running, limits) as sandbox:
            yield sandbox
            for name in order:
                sandbox.drop(name)
