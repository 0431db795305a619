"""Where a question is asked: a schema, and a way to run the answer on it.

A schema file and an SQLite database are run on a copy in a private PostgreSQL, in the sandbox; the copy of a schema
file has no rows. A server is read where it is (`text2sql.ask.servers`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from text2sql.ask.dsn import is_dsn
from text2sql.ask.fit import Target, with_shown_names
from text2sql.errors import UserError
from text2sql.model.prompt import VALUES_KEPT
from text2sql.postgres.compare import Result
from text2sql.schema import Schema

if TYPE_CHECKING:
    import psycopg

DATABASE = "place"
PlaceType = Literal["schema", "sqlite", "dsn"]


@dataclasses.dataclass(frozen=True)
class Place:
    """`execute` runs untrusted SQL safely; `rows` says whether there are any to be seen."""

    schema: Schema
    execute: Callable[[str], Result]
    rows: bool
    target: Target = dataclasses.field(default_factory=Target)

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
def open_place(
    place: str,
    seconds: float = 10.0,
    max_rows: int = 1000,
    trusted: Sequence[str] = (),
    expected: PlaceType | None = None,
) -> Iterator[Place]:
    """Open `place`: the path of a schema file or an SQLite database, or a DSN of PostgreSQL.

    Its schema has the values of its text columns, `VALUES_KEPT` of each at most.

    Args:
        seconds: the limit of one query.
        max_rows: the limit of one result.
        trusted: functions that queries on a server may call, see `servers.Remote`.
        expected: what it was given as; None: what it looks like.

    Raises:
        UserError: it cannot be read or reached, or is not what was expected.
    """
    if expected == "dsn" or (expected is None and is_dsn(place)):
        from text2sql.ask.servers import Remote

        with Remote(place, seconds=seconds, max_rows=max_rows, trusted=trusted) as remote:
            catalog = remote.catalog(VALUES_KEPT)
            yield Place(catalog.schema, remote.execute, True, Target(remote.version, catalog.relations, remote.read))
        return
    path = Path(place)
    check_file(place, expected)
    with ExitStack() as stack:
        schema, dump, target = sqlite_copy(path) if is_sqlite(path) else schema_copy(path)
        copy = Copy(dump, stack, seconds, max_rows)
        yield Place(schema, lambda sql: copy.execute(with_shown_names(sql, target.relations)), dump.rows, target)


def check_file(place: str, expected: PlaceType | None) -> None:
    """Say what is wrong with a file before it is taken for something else.

    Raises:
        UserError: it is an address, is missing, or is no SQLite database where one is expected.
    """
    if is_dsn(place):
        raise UserError(f"--{expected} takes a file, and this is the address of a server", "give the address as --dsn")
    if expected == "sqlite":
        if not Path(place).is_file():
            raise UserError(f"there is no file {place}", "give the path of an SQLite database")
        if not is_sqlite(Path(place)):
            raise UserError(f"{place} is no SQLite database", f"give a file of CREATE TABLEs as --schema {place}")


def is_sqlite(path: Path) -> bool:
    """Whether the file is an SQLite database, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


@dataclasses.dataclass(frozen=True)
class Dump:
    """Something that can write itself as a PostgreSQL dump, piece by piece."""

    pieces: Callable[[], Iterator[str]]
    rows: bool


def schema_copy(path: Path) -> tuple[Schema, Dump, Target]:
    """A file of CREATE TABLE statements; its copy has empty tables."""
    from text2sql.ask.schema_file import read_schema_file

    catalog = read_schema_file(path)
    return catalog.schema, Dump(lambda: definitions_of(catalog.schema), rows=False), Target(None, catalog.relations)


def definitions_of(schema: Schema) -> Iterator[str]:
    """The CREATE TABLE statements of a schema without rows, then those that add its foreign keys."""
    from text2sql.conversion.databases.dump import script

    pieces = (piece.strip() for piece in script(schema, lambda table: ()))
    return (piece for piece in pieces if piece.startswith(("CREATE TABLE", "ALTER TABLE")))


def sqlite_copy(path: Path) -> tuple[Schema, Dump, Target]:
    """An SQLite database, as the stage `databases` converts it."""
    from text2sql.conversion.databases import describe, open_source
    from text2sql.conversion.databases.dump import dump

    with open_source(path) as source:
        schema = describe(source, path.stem, VALUES_KEPT)

    def pieces() -> Iterator[str]:
        with open_source(path) as source:
            yield from dump(source, schema)

    return schema, Dump(pieces, rows=True), Target(read=frozenset(table.name for table in schema.tables))


class Copy:
    """A copy of a database in a private PostgreSQL, created when the first query is run, gone with `stack`.

    What of a schema file cannot be loaded is left out; an error then names it (`Result.message`).
    """

    def __init__(self, dump: Dump, stack: ExitStack, seconds: float, max_rows: int) -> None:
        self._dump, self._stack, self._seconds, self._max_rows = dump, stack, seconds, max_rows
        self._lock = threading.Lock()
        self._execute: Callable[[str], Result] | None = None
        self._left_out: list[str] = []

    def execute(self, sql: str) -> Result:
        """The result of `sql` in the sandbox."""
        with self._lock:
            if self._execute is None:
                self._execute = self._start()
        result = self._execute(sql)
        if result.error and self._left_out:
            message = f"{result.message} (left out of the copy: {'; '.join(self._left_out)})"
            return dataclasses.replace(result, message=message)
        return result

    def _start(self) -> Callable[[str], Result]:
        import psycopg

        from text2sql.postgres.load import run_script
        from text2sql.postgres.sandbox import Limits, Sandbox
        from text2sql.postgres.server import server

        running = self._stack.enter_context(server())
        running.create_database(DATABASE)
        with psycopg.connect(running.dsn(DATABASE), autocommit=not self._dump.rows) as connection:
            if self._dump.rows:
                pieces = (line for text in self._dump.pieces() for line in text.splitlines(keepends=True))
                run_script(connection, pieces)
            else:
                self._left_out = load_definitions(connection, self._dump.pieces())
        limits = Limits(timeout_seconds=self._seconds, max_rows=self._max_rows)
        sandbox = self._stack.enter_context(Sandbox(running, limits))
        return lambda sql: sandbox.execute(DATABASE, sql)


def load_definitions(connection: psycopg.Connection, pieces: Iterator[str]) -> list[str]:
    """Create tables and keys; returns the name of each that the server refused, with its reason."""
    import psycopg

    left_out = []
    for piece in pieces:
        try:
            connection.execute(piece.encode())
        except psycopg.Error as error:
            title = " ".join(piece.partition("(")[0].split())
            left_out.append(f"{title}: {error.diag.message_primary}")
    return left_out
