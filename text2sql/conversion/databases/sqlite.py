"""Reading a SQLite file of any origin: tables, keys and rows, with a defined outcome for what is wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from text2sql.errors import UserError

#: how long to wait for another process's lock, in seconds
LOCK_SECONDS = 2.0
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


@dataclass
class Source:
    """An open SQLite database. `notes` collects what a reader of the schema index should know."""

    path: Path
    connection: sqlite3.Connection
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._foreign_text = 0
        self.connection.text_factory = self._decode

    def _decode(self, value: bytes) -> str:
        """UTF-8, or else Latin-1, which loses no byte."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            self._foreign_text += 1
            return value.decode("latin-1")

    def tables(self) -> list[SourceTable]:
        """All tables in the order of their creation, then views; SQLite's own and shadow tables are left out."""
        kinds = {row[1]: row[2] for row in self._pragma("table_list") if row[0] == "main"}
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY type, rowid"
        names = [name for (name,) in self.connection.execute(query) if not name.lower().startswith("sqlite_")]
        tables = []
        for name in names:
            kind = kinds.get(name, "table")
            if kind == "shadow":
                continue
            try:
                tables.append(self._table(name, kind))
                if kind != "table":
                    self.connection.execute(f"SELECT * FROM {quote(name)} LIMIT 1").fetchall()
                    self.notes.append(f"{kind} {name}: carried over as a table with the rows that it shows")
            except sqlite3.Error as error:
                self.notes.append(f"{kind} {name}: left out, it cannot be read: {error}")
                tables = [table for table in tables if table.name != name]
        return tables

    def rows(self, table: SourceTable) -> Iterator[tuple[Value, ...]]:
        """The rows of a table in their stored order."""
        before = self._foreign_text
        columns = ", ".join(quote(column.name) for column in table.columns)
        yield from self.connection.execute(f"SELECT {columns} FROM {quote(table.name)}")
        if self._foreign_text > before:
            self._note(f"table {table.name}: {self._foreign_text - before} values are not UTF-8, read as Latin-1")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _pragma(self, name: str, argument: str = "") -> list[tuple[Value, ...]]:
        call = f"PRAGMA {name}({quote(argument)})" if argument else f"PRAGMA {name}"
        return self.connection.execute(call).fetchall()

    def _table(self, name: str, kind: str) -> SourceTable:
        collations = self._collations(name)
        columns, key = [], []
        for _, column, declared, not_null, _, place, hidden in self._pragma("table_xinfo", name):
            if hidden == 1:  # of a virtual table: a command channel, not data
                continue
            columns.append(SourceColumn(column, declared or "", bool(not_null), collations.get(column, "")))
            if place:
                key.append((place, column))
            if hidden in (2, 3):
                self._note(f"column {name}.{column}: generated in SQLite, carried over as values")
        unique = []
        for _, index, is_unique, origin, partial in self._pragma("index_list", name):
            if is_unique and not partial and origin != "pk":
                places = [row[2] for row in self._pragma("index_info", index)]
                if None not in places:  # None: an expression
                    unique.append(tuple(places))
        return SourceTable(
            name=name,
            kind=kind,
            columns=tuple(columns),
            primary_key=tuple(column for _, column in sorted(key)),
            unique=tuple(sorted(set(unique))),
            foreign_keys=self._foreign_keys(name),
        )

    def _collations(self, table: str) -> dict[str, str]:
        """The collations of a table's columns other than BINARY. SQLite shows them only through an index."""
        found = {}
        for column in self._pragma("table_info", table):
            # An index would tell, but the file is opened read-only: the definition is parsed instead.
            found[column[1]] = ""
        definition = self.connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        if definition and definition[0] and "COLLATE" in definition[0].upper():
            found.update(_declared_collations(definition[0]))
        return {name: collation for name, collation in found.items() if collation}

    def _foreign_keys(self, table: str) -> tuple[SourceKey, ...]:
        keys: dict[int, list[tuple[Value, ...]]] = {}
        for row in self._pragma("foreign_key_list", table):
            keys.setdefault(int(row[0] or 0), []).append(row)
        result = []
        for number in sorted(keys, reverse=True):  # SQLite lists the last declared first
            parts = sorted(keys[number], key=lambda row: int(row[1] or 0))
            referred = tuple(str(row[4]) for row in parts if row[4] is not None)
            result.append(SourceKey(tuple(str(row[3]) for row in parts), str(parts[0][2]), referred))
        return tuple(result)


def _declared_collations(definition: str) -> dict[str, str]:
    import sqlglot
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(definition, read="sqlite")
    except sqlglot.errors.SqlglotError:
        return {}
    found = {}
    for column in tree.find_all(exp.ColumnDef):
        for constraint in column.find_all(exp.CollateColumnConstraint):
            found[column.name] = constraint.this.name.upper()
    return {name: collation for name, collation in found.items() if collation != "BINARY"}


def quote(name: str) -> str:
    """`name` as an identifier of SQLite."""
    return '"' + name.replace('"', '""') + '"'


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection.

    Raises:
        UserError: there is no such file, or it cannot be opened.
    """
    remedy = "replace it by an intact copy, or remove it: its examples are then reported as missing"
    if not path.exists():
        raise UserError(f"{path} is missing", "check the path")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    for address in (uri, f"{uri}&immutable=1"):
        try:
            connection = sqlite3.connect(address, uri=True, timeout=LOCK_SECONDS, check_same_thread=False)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.Error as error:
            # A database in WAL mode wants to write beside itself; where it may not, it is read as it stands.
            if "unable to open" in str(error) and address is uri and not path.with_name(path.name + "-wal").exists():
                continue
            what = "is locked by another process" if "locked" in str(error) else f"cannot be read: {error}"
            raise UserError(f"{path} {what}", remedy) from None
    raise UserError(f"{path} cannot be opened", remedy)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a SQLite file for reading, after its own integrity check.

    Raises:
        UserError: it is missing, locked, no database, or damaged.
    """
    connection = connect(path)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise UserError(f"{path} is damaged: {found[0] if found else 'no answer'}", "restore it from a copy")
        yield Source(path, connection)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged: {error}", "restore it from a copy") from None
    finally:
        connection.close()
