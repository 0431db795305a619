"""Reading a SQLite file of any origin: tables, keys and rows, with a defined outcome for what is wrong with it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlglot import exp

from text2sql.conversion.databases import probe
from text2sql.errors import UserError
from text2sql.sql import tree_of

#: how long to wait for another process's lock, in seconds
LOCK_SECONDS = 2.0
#: how often to copy a file whose log is begun anew meanwhile
COPIES = 5
#: in SQLite's words, why a table of an intact file cannot be read: an application has what it needs, or a name of it is
#: not UTF-8
LEFT_OUT = ("no such collation", "unknown function", "no such function", "no query solution", "no such column")
#: collations that every SQLite has
COLLATIONS = ("", "NOCASE", "RTRIM")
Value = int | float | str | bytes | None


@dataclass(frozen=True)
class SourceColumn:
    """A column as declared."""

    name: str
    declared: str
    not_null: bool
    collation: str = ""


@dataclass(frozen=True)
class SourceKey:
    """A foreign key as declared; `referred_columns` is empty where it means the other table's primary key."""

    columns: tuple[str, ...]
    referred_table: str
    referred_columns: tuple[str, ...]


@dataclass(frozen=True)
class SourceTable:
    """A table (or a view or virtual table, see `kind`) as declared, by SQLite's names."""

    name: str
    kind: str
    columns: tuple[SourceColumn, ...]
    primary_key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[SourceKey, ...]
    #: whether its definition makes SQLite compute values: a view's, a virtual table's, one with generated columns
    computed: bool = False


@dataclass
class SqliteDatabase:
    """An open SQLite database. `notes` collects what a reader of the schema index should know."""

    path: Path
    connection: sqlite3.Connection
    notes: list[str] = field(default_factory=list)

    #: the tables, where they are known without looking
    known: list[SourceTable] | None = None

    def __post_init__(self) -> None:
        self._foreign_text = 0
        self._seconds = 0.0  # of processor time, spent on what the file computes
        self.connection.text_factory = self._decode

    def _decode(self, value: bytes) -> str:
        """UTF-8, or else Latin-1, which loses no byte."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            self._foreign_text += 1
            return value.decode("latin-1")

    def tables(self) -> list[SourceTable]:
        """All tables in the order of their creation, then views; SQLite's own and shadow tables are left out, and with
        a note whatever cannot be read: for want of an application's function or collation, or because it never ends."""
        if self.known is None:
            kinds = {row[1]: row[2] for row in self._pragma("table_list") if row[0] == "main"}
            query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY type, rowid"
            names = [name for (name,) in self.connection.execute(query) if not name.lower().startswith("sqlite_")]
            readable = (self._readable(name, kinds.get(name, "table")) for name in names if kinds.get(name) != "shadow")
            self.known = [table for table in readable if table is not None]
        return self.known

    def _readable(self, name: str, kind: str) -> SourceTable | None:
        """The table of that name, None with a note if it cannot be read."""
        try:
            table = self._table(name, kind)
            if kind == "table":
                # `t.`: SQLite takes a quoted name that is no column for a text, as one that is not UTF-8
                columns = ", ".join(f"t.{sqlite_name(column.name)}" for column in table.columns)
                self.connection.execute(f"SELECT {columns} FROM {sqlite_name(name)} AS t LIMIT 1").fetchone()
            else:
                self._read_through("*", name)
                self.note(f"{kind} {name}: carried over as a table with the rows that it shows")
        except sqlite3.OperationalError as error:
            if kind == "table" and not any(word in str(error) for word in LEFT_OUT):
                raise
            self.note(f"{kind} {name}: left out, it cannot be read: {error}")
            return None
        return table

    def _read_through(self, columns: str, table: str) -> None:
        """Try whether rows that SQLite computes can be read.

        Raises:
            sqlite3.OperationalError: an error of SQLite, or they exceed the limits.
        """
        left = probe.MOST_SECONDS_OF_A_FILE - self._seconds
        if left <= 0:
            raise sqlite3.OperationalError("what the file computes takes too long in all")
        query = f"SELECT {columns} FROM {sqlite_name(table)}"
        tried = probe.try_query(self.path, query, min(left, probe.MOST_SECONDS))
        self._seconds += tried.seconds
        if tried.error:
            raise sqlite3.OperationalError(tried.error)

    def rows(self, table: SourceTable) -> Iterator[tuple[Value, ...]]:
        """The rows of a table in their stored order."""
        before = self._foreign_text
        columns = ", ".join(sqlite_name(column.name) for column in table.columns)
        yield from self.connection.execute(f"SELECT {columns} FROM {sqlite_name(table.name)}")
        if self._foreign_text > before:
            self.note(f"table {table.name}: {self._foreign_text - before} values are not UTF-8, read as Latin-1")

    def with_nulls(self, blanks: Mapping[str, Sequence[str]]) -> sqlite3.Connection | None:
        """Another connection to the same file, in which these columns of tables hold NULL instead of empty texts: a
        temporary table hides each such table. None if there are no such columns, or no file."""
        if not any(blanks.values()) or not self.path.exists():
            return None
        connection = SqliteDatabase(self.path, connect_sqlite(self.path)).connection
        connection.set_authorizer(None)
        connection.execute("PRAGMA temp_store = MEMORY")
        for table in self.tables():
            if not blanks.get(table.name):
                continue
            key = table.primary_key[0] if len(table.primary_key) == 1 else ""
            columns, values = [], []
            for column in table.columns:
                is_blank, name = column.name in blanks[table.name], sqlite_name(column.name)
                is_rowid = column.name == key and column.declared.upper() == "INTEGER" and not is_blank
                collation = f" COLLATE {column.collation}" if column.collation else ""
                columns.append(f"{name} {column.declared}{' PRIMARY KEY' if is_rowid else ''}{collation}")
                values.append(f"nullif({name}, '')" if is_blank else name)
            name = sqlite_name(table.name)
            connection.execute(f"CREATE TEMP TABLE {name} ({', '.join(columns)})")
            connection.execute(f"INSERT INTO temp.{name} SELECT {', '.join(values)} FROM main.{name}")
        connection.commit()
        connection.set_authorizer(probe.authorize)
        return connection

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _pragma(self, name: str, argument: str = "") -> list[tuple[Value, ...]]:
        call = f"PRAGMA {name}({sqlite_name(argument)})" if argument else f"PRAGMA {name}"
        return self.connection.execute(call).fetchall()

    def _table(self, name: str, kind: str) -> SourceTable:
        described = self._pragma("table_xinfo", name)
        collations = self._collations(name, [row[1] for row in described]) if kind == "table" else {}
        columns, key, computed = [], [], kind != "table"
        for _, column, declared, not_null, _, place, hidden in described:
            computed = computed or hidden in (2, 3)
            if hidden == 1 or (hidden in (2, 3) and not self._generated(name, column)):
                continue  # 1: of a virtual table, a command channel, not data
            columns.append(SourceColumn(column, declared or "", bool(not_null), collations.get(column, "")))
            if place:
                key.append((place, column))
            if collations.get(column, "") not in COLLATIONS:
                self.note(f"column {name}.{column}: the order of {collations[column]} is not carried over")
        unique = set()
        for _, index, is_unique, origin, partial in self._pragma("index_list", name):
            if is_unique and not partial and origin != "pk":
                unique.add(tuple(row[2] for row in self._pragma("index_info", index)))
        unique = {names for names in unique if None not in names}  # None: an expression
        primary_key = tuple(column for _, column in sorted(key))
        return SourceTable(
            name, kind, tuple(columns), primary_key, tuple(sorted(unique)), self._foreign_keys(name), computed
        )

    def _generated(self, table: str, column: str) -> bool:
        """Whether a generated column can be read, with a note on either."""
        try:
            self._read_through(sqlite_name(column), table)
        except sqlite3.OperationalError as error:
            self.note(f"column {table}.{column}: left out, it is generated in SQLite and cannot be read: {error}")
            return False
        self.note(f"column {table}.{column}: generated in SQLite, carried over as values")
        return True

    def _collations(self, table: str, names: Sequence[str]) -> dict[str, str]:
        """The collations of a table's columns other than BINARY.

        SQLite shows them only through an index, which an empty table of the same definition gets. A definition that
        cannot be executed here (a CHECK with an application's function) is parsed.
        """
        row = self.connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        definition = row[0] or "" if row else ""
        if "COLLATE" not in definition.upper():
            return {}
        with closing(sqlite3.connect(":memory:")) as empty, suppress(sqlite3.Error):
            empty.execute(definition)
            return {name: collation for name in names if (collation := _collation(empty, table, name)) != "BINARY"}
        if (tree := tree_of(definition, "sqlite")) is None:
            return {}
        columns = tree.find_all(exp.ColumnDef)
        constraints = [(c.name, one) for c in columns for one in c.find_all(exp.CollateColumnConstraint)]
        named = {name: constraint.this.name.upper() for name, constraint in constraints}
        return {name: collation for name, collation in named.items() if collation != "BINARY"}

    def _foreign_keys(self, table: str) -> tuple[SourceKey, ...]:
        rows: list[Any] = sorted(self._pragma("foreign_key_list", table), key=lambda row: (-row[0], row[1]))
        result = []
        for _, group in groupby(rows, key=lambda row: row[0]):  # SQLite lists the last declared first
            _, _, referred, columns, referred_columns, *_ = zip(*group, strict=True)
            result.append(SourceKey(columns, referred[0], tuple(c for c in referred_columns if c is not None)))
        return tuple(result)


def _collation(empty: sqlite3.Connection, table: str, column: str) -> str:
    """The collation of a column, in capitals."""
    try:
        empty.execute(f"CREATE INDEX one ON {sqlite_name(table)} ({sqlite_name(column)})")
        name = empty.execute("PRAGMA index_xinfo(one)").fetchone()[4]
        empty.execute("DROP INDEX one")
    except sqlite3.OperationalError as error:
        missing = probe.MISSING.match(str(error))
        name = missing[2].strip() if missing else "BINARY"
    return name.upper()


def sqlite_name(name: str) -> str:
    """`name` as an identifier of SQLite."""
    return '"' + name.replace('"', '""') + '"'


def connect_sqlite(path: Path, shown: Path | None = None) -> sqlite3.Connection:
    """A connection that only reads.

    Args:
        shown: the file that errors name, where `path` is a copy.

    Raises:
        UserError: there is no such file, or it cannot be opened.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'no file' if path.exists() else 'missing'}", "check the path")
    try:
        connection = probe.reading_connection(path, LOCK_SECONDS)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise UserError(*_why_not(shown or path, str(error))) from None
    return connection


def _why_not(path: Path, error: str) -> tuple[str, str]:
    """Why a file cannot be opened, and what to do."""
    if "locked" in error:
        return f"{path} is locked by another process", "end that, or give a copy"
    if "readonly" in error:
        remedy = "open it with its program, or with sqlite3, which completes or undoes the change"
        return f"{path} was left amid a change, by which {path.name}-journal lies beside it", remedy
    return f"{path} cannot be read: {error}", "give an intact SQLite database that you may read"


@contextmanager
def _settled(path: Path) -> Iterator[Path]:
    """The file at `path`; where a log of changes lies beside it, a copy of both in a folder of ours, as SQLite changes
    what lies beside a file when it reads a log.

    Raises:
        UserError: the log is begun anew all the time.
    """
    if not path.is_file() or not probe.log_of(path := path.resolve()).exists():
        yield path
        return
    with TemporaryDirectory(prefix="text2sql-sqlite-") as folder:
        copy = Path(folder) / path.name
        for _ in range(COPIES):
            begun = _beginning(path)
            shutil.copyfile(path, copy)
            probe.log_of(copy).unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # the last program that had the file open has closed it
                shutil.copyfile(probe.log_of(path), probe.log_of(copy))
            if begun == _beginning(path) == _beginning(copy):  # what is not in the copied file is in the copied log
                yield copy
                return
    raise UserError(f"{path} is written all the time", "end the program that does, or give a copy")


def _beginning(path: Path) -> bytes:
    """The head of a log, which tells it from those before it; empty if there is none."""
    log = probe.log_of(path)
    with suppress(FileNotFoundError), log.open("rb") as file:
        return file.read(32)
    return b""


@contextmanager
def open_source(path: Path) -> Iterator[SqliteDatabase]:
    """Open a SQLite file for reading, after its own integrity check; nothing beside it changes.

    Raises:
        UserError: it is missing, locked, no database, or damaged.
    """
    with _settled(path) as file, closing(connect_sqlite(file, path)) as connection:
        try:
            problem = probe.integrity(file)
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            yield SqliteDatabase(file, connection)
        except sqlite3.DatabaseError as error:
            if "not authorized" in str(error):  # Python's authorizer reads UTF-8 only
                raise UserError(f"{path} has a table whose name is not UTF-8", "rename that table") from None
            raise UserError(f"{path} is damaged: {error}", "restore it from a copy") from None
