"""Where a question is asked: a schema, and a way to run the answer on it.

A schema file and an SQLite database are run on a copy in a private PostgreSQL, in the sandbox; the copy of a schema
file has no rows. A DSN is read where it is (`text2sql.ask.servers`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from text2sql.errors import UserError
from text2sql.postgres.compare import Result
from text2sql.schema import Schema

DATABASE = "place"


@dataclasses.dataclass(frozen=True)
class Place:
    """`execute` runs untrusted SQL safely; `rows` says whether there are any to be seen."""

    schema: Schema
    execute: Callable[[str], Result]
    rows: bool

    def only(self, tables: Sequence[str]) -> Place:
        """The same with these tables of its schema, for one that is larger than a prompt.

        Raises:
            UserError: there is no such table.
        """
        known = {table.name for table in self.schema.tables}
        if missing := [name for name in tables if name not in known]:
            raise UserError(f"there is no table {missing[0]}", f"tables: {', '.join(sorted(known)[:50])}")
        kept = tuple(table for table in self.schema.tables if table.name in tables)
        return dataclasses.replace(self, schema=dataclasses.replace(self.schema, tables=kept))


@contextmanager
def open_place(place: str, samples: int = 0, seconds: float = 10.0, max_rows: int = 1000) -> Iterator[Place]:
    """Open `place`: the path of a schema file or an SQLite database, or a DSN of PostgreSQL.

    Args:
        samples: distinct values kept of each column, for prompts that show values; 0 keeps none.
        seconds: the limit of one query.
        max_rows: the limit of one result.

    Raises:
        UserError: it cannot be read or reached.
    """
    if is_dsn(place):
        from text2sql.ask.servers import Remote

        with Remote(place, seconds=seconds, max_rows=max_rows) as remote:
            yield Place(remote.schema(samples), remote.execute, rows=True)
        return
    with ExitStack() as stack:
        schema, dump = (sqlite if is_sqlite(Path(place)) else schema_file)(Path(place), samples)
        yield Place(schema, Copy(dump, stack, seconds, max_rows).execute, rows=dump.rows)


def is_dsn(place: str) -> bool:
    """Whether this is a DSN rather than a path: an address, or libpq's `key=value` pairs."""
    return place.startswith(("postgres://", "postgresql://")) or any(
        word.startswith(("host=", "dbname=", "service=", "hostaddr=")) for word in place.split()
    )


def is_sqlite(path: Path) -> bool:
    """Whether the file is an SQLite database, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


@dataclasses.dataclass(frozen=True)
class Dump:
    """Something that can write itself as a PostgreSQL dump."""

    lines: Callable[[], Iterator[str]]
    rows: bool


def schema_file(path: Path, samples: int = 0) -> tuple[Schema, Dump]:
    """A file of CREATE TABLE statements; its copy has empty tables."""
    from text2sql.ask.schema_file import read
    from text2sql.conversion.databases.dump import statements

    schema = read(path)
    return schema, Dump(lambda: statements(schema, lambda table: ()), rows=False)


def sqlite(path: Path, samples: int = 0) -> tuple[Schema, Dump]:
    """An SQLite database, as the stage `databases` converts it."""
    from text2sql.conversion.databases import describe, open_source
    from text2sql.conversion.databases.dump import dump

    with open_source(path) as source:
        schema = describe(source, path.stem, samples)

    def lines() -> Iterator[str]:
        with open_source(path) as source:
            yield from dump(source, schema)

    return schema, Dump(lines, rows=True)


class Copy:
    """A copy of a database in a private PostgreSQL, made when the first query is run, gone with `stack`."""

    def __init__(self, dump: Dump, stack: ExitStack, seconds: float, max_rows: int) -> None:
        self._dump, self._stack, self._seconds, self._max_rows = dump, stack, seconds, max_rows
        self._lock = threading.Lock()
        self._execute: Callable[[str], Result] | None = None

    def execute(self, sql: str) -> Result:
        """The result of `sql` in the sandbox."""
        with self._lock:
            if self._execute is None:
                self._execute = self._start()
        return self._execute(sql)

    def _start(self) -> Callable[[str], Result]:
        import psycopg

        from text2sql.postgres.load import run_script
        from text2sql.postgres.sandbox import Limits, Sandbox
        from text2sql.postgres.server import server

        running = self._stack.enter_context(server())
        running.create_database(DATABASE)
        with psycopg.connect(running.dsn(DATABASE)) as connection:
            run_script(connection, (line for text in self._dump.lines() for line in text.splitlines(keepends=True)))
        limits = Limits(timeout_seconds=self._seconds, max_rows=self._max_rows)
        sandbox = self._stack.enter_context(Sandbox(running, limits))
        return lambda sql: sandbox.execute(DATABASE, sql)
