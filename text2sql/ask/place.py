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

import psycopg
from sqlglot import exp

from text2sql.ask.catalog import Catalog, Relations, Target, leave_out
from text2sql.ask.dsn import is_dsn
from text2sql.ask.fit import with_shown_names
from text2sql.ask.inferred_keys import with_inferred_keys
from text2sql.ask.loading import definitions_of, load_definitions
from text2sql.errors import UserError
from text2sql.model.prompt import VALUES_KEPT
from text2sql.postgres.compare import Result
from text2sql.schema import Schema
from text2sql.sql import tree_of

if TYPE_CHECKING:
    from text2sql.postgres.sandbox import Sandbox

DATABASE = "place"
#: limits of one query, wherever it runs
SECONDS, MAX_ROWS = 10.0, 1000
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
        return dataclasses.replace(self, schema=leave_out(self.schema, sorted(known - set(tables))))


@contextmanager
def open_place(place: str, trusted: Sequence[str] = (), expected: PlaceType | None = None) -> Iterator[Place]:
    """Open `place`: the path of a schema file or an SQLite database, or a DSN of PostgreSQL.

    Its schema has the values of its text columns, `VALUES_KEPT` of each at most, and the keys that its names speak of
    where it declares none.

    Args:
        trusted: functions that queries on a server may call, see `servers.Remote`.
        expected: what it was given as; None: what it looks like.

    Raises:
        UserError: it cannot be read or reached, or is not what was expected.
    """
    from text2sql.ask.schema_file import parse_schema, schema_text
    from text2sql.postgres.sandbox import Limits, Sandbox
    from text2sql.postgres.server import server

    with ExitStack() as stack:
        if expected == "dsn" or (expected is None and is_dsn(place)):
            from text2sql.ask.servers import Remote

            remote = stack.enter_context(Remote(place, seconds=SECONDS, max_rows=MAX_ROWS, trusted=trusted))
            catalog, execute, has_rows = remote.catalog(VALUES_KEPT), remote.execute, True
        else:
            check_file(place, expected)
            path, limits = Path(place), Limits(timeout_seconds=SECONDS, max_rows=MAX_ROWS + 1)
            has_rows = is_sqlite(path)
            if has_rows:
                catalog, load = sqlite_copy(path)
                copy = Copy(load, lambda: stack.enter_context(Sandbox(stack.enter_context(server()), limits)), {})
            else:
                text, running = schema_text(path), stack.enter_context(server())
                catalog = parse_schema(text, running, path.stem, place)
                copy = Copy(
                    lambda connection: load_definitions(connection, definitions_of(catalog.schema)),
                    lambda: stack.enter_context(Sandbox(running, limits)),
                    catalog.target.relations,
                )
            execute = copy.execute
        yield Place(with_inferred_keys(catalog.schema), execute, has_rows, catalog.target)


def check_file(place: str, expected: PlaceType | None) -> None:
    """Say what is wrong with a file before it is taken for something else.

    Raises:
        UserError: it is an address, is missing, or is no SQLite database where one is expected.
    """
    if is_dsn(place):
        raise UserError(f"--{expected} takes a file, and this is the address of a server", "give the address as --dsn")
    if expected == "sqlite":
        path = Path(place)
        if not (is_database := is_sqlite(path)) and not path.is_file():
            missing = f"{place} is a folder" if path.is_dir() else f"there is no file {place}"
            raise UserError(missing, "give the path of an SQLite database")
        if not is_database:
            what = "is no SQLite database" if path.stat().st_size else "is empty"
            remedy = f"give a file of CREATE TABLEs as --schema {place}; an encrypted database, decrypted"
            raise UserError(f"{place} {what}", remedy)


def is_sqlite(path: Path) -> bool:
    """Whether the file is an SQLite database, by its first bytes.

    Raises:
        UserError: it cannot be read, or its name is longer than a file's may be.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(16) == b"SQLite format 3\0"
    except OSError as error:
        remedy = "give the path of a file that you may read"
        raise UserError(f"{str(path)[:80]} cannot be read: {error.strerror}", remedy) from None


#: writes a copy of a database; returns what the server refuses of it
Load = Callable[[psycopg.Connection], list[str]]


def sqlite_copy(path: Path) -> tuple[Catalog, Load]:
    """An SQLite database, as the stage `databases` converts it.

    Raises:
        UserError: it is damaged, or locked.
    """
    from text2sql.conversion.databases import describe, open_source
    from text2sql.conversion.databases.dump import dump
    from text2sql.postgres.load import run_script

    try:
        with open_source(path) as source:
            schema = describe(source, path.stem, VALUES_KEPT)
    except UserError as error:
        raise UserError(error.what, "give an intact copy, which no other program writes to") from None

    def load(connection: psycopg.Connection) -> list[str]:
        with open_source(path) as source, connection.transaction():
            run_script(connection, (line for text in dump(source, schema) for line in text.splitlines(keepends=True)))
        return []

    return Catalog(schema, Target.of_whole(schema)), load


def execute_first(sandbox: Sandbox, database: str, sql: str, most: int) -> Result:
    """The result of `sql`; of one with more than `most` rows the first ones, with the error `too_many_rows`.

    The sandbox's own limit of rows is to be larger. It would not do: PostgreSQL gives the first row of a cursor when it
    has the last one. So the query is limited, if it can be.
    """
    is_query = isinstance(tree_of(sql), exp.Query)
    limited = f"SELECT * FROM (\n{sql.rstrip().rstrip(';')}\n) AS answer LIMIT {most + 1}"
    result = sandbox.execute(database, limited if is_query else sql)
    if is_query and result.error in ("syntax", "forbidden"):  # before a row was read: only there may the words differ
        result = sandbox.execute(database, sql)
    if len(result.rows) <= most:
        return result
    message = f"only the first {most:,} rows are shown"
    return dataclasses.replace(result, rows=result.rows[:most], error="too_many_rows", message=message)


def row_count(result: Result, shown: int) -> str:
    """How many rows a result has, of which at most `shown` are shown.

    >>> row_count(Result(("a",), [(1,)]), 50), row_count(Result(("a",), [(1,)] * 60, "too_many_rows"), 50)
    ('1 row', 'more than 60 rows, the first 50 shown')
    """
    count = len(result.rows)
    more = "more than " if result.error else ""
    return f"{more}{count:,} row{'' if count == 1 else 's'}" + (f", the first {shown} shown" if count > shown else "")


class Copy:
    """A copy of a database on a private PostgreSQL, made when the first query is run.

    What of a schema file cannot be loaded is left out; an error then names it (`Result.message`).

    Args:
        relations: tables that queries name with their schema, and the copy without.
    """

    def __init__(self, load: Load, sandbox: Callable[[], Sandbox], relations: Relations) -> None:
        self._load, self._new_sandbox, self._relations = load, sandbox, relations
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._empty: Sandbox | None = None  # with a database that nothing could be copied to yet
        self._left_out: list[str] = []
        self._failure: UserError | None = None

    def execute(self, sql: str) -> Result:
        """The result of `sql` in the sandbox.

        Raises:
            UserError: PostgreSQL cannot hold the rows.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._sandbox is None:
                if self._empty is None:
                    self._empty = self._new_sandbox()
                    self._empty.server.create_database(DATABASE)
                sandbox = self._empty
                try:
                    with psycopg.connect(sandbox.server.dsn(DATABASE), autocommit=True) as connection:
                        self._left_out = self._load(connection)
                except psycopg.Error as error:
                    what = f"PostgreSQL cannot hold a copy of the database: {' '.join(str(error).split())}"
                    self._failure = UserError(what, "ask without --run and --candidates: the SQL is written without it")
                    raise self._failure from None
                self._sandbox = sandbox
        result = execute_first(self._sandbox, DATABASE, with_shown_names(sql, self._relations), MAX_ROWS)
        if result.error and self._left_out:
            message = f"{result.message} (left out of the copy: {'; '.join(self._left_out)})"
            return dataclasses.replace(result, message=message)
        return result
