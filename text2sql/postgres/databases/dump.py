"""A database as plain SQL that `psql -f` loads, and the same file loaded through a connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from text2sql.postgres.databases.describe import encoder
from text2sql.postgres.databases.names import quote
from text2sql.postgres.databases.sqlite import Source, Value
from text2sql.schema import Column, Schema, Table

if TYPE_CHECKING:
    from text2sql.postgres.server import Server

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
END_OF_DATA = "\\.\n"
Rows = Callable[[Table], Iterable[tuple[Value, ...]]]


def column_list(names: Iterable[str]) -> str:
    """`(a, b)`."""
    return f"({', '.join(quote(name) for name in names)})"


def create_table(table: Table) -> str:
    """CREATE TABLE with its primary and unique keys and NOT NULL, without foreign keys."""
    lines = []
    for column in table.columns:
        parts = [quote(column.name), column.type]
        if table.primary_key == (column.name,):
            parts.append("PRIMARY KEY")
        elif column.not_null and column.name not in table.primary_key:
            parts.append("NOT NULL")
        if column.unique and table.primary_key != (column.name,):
            parts.append("UNIQUE")
        lines.append(" ".join(parts))
    if len(table.primary_key) > 1:
        lines.append(f"PRIMARY KEY {column_list(table.primary_key)}")
    lines += [f"UNIQUE {column_list(key)}" for key in table.unique]
    body = ",\n".join(f"    {line}" for line in lines)
    return f"CREATE TABLE {quote(table.name)} (\n{body}\n);\n"


def statements(schema: Schema, rows: Rows) -> Iterator[str]:
    """The dump of `schema` with the rows of each table, as Python values."""
    yield from script(schema, lambda table: copy_lines(table.columns, rows(table)))


def script(schema: Schema, lines: Callable[[Table], Iterable[str]]) -> Iterator[str]:
    """The dump, piece by piece: tables, their rows, and the foreign keys last, so that circles of them load.

    `lines` gives a table's rows in COPY's text format.
    """
    yield "-- Load with: psql -v ON_ERROR_STOP=1 -f FILE DATABASE (made with LOCALE 'C': text sorts as in SQLite)\n"
    yield "SET client_encoding = 'UTF8';\n"
    for table in schema.tables:
        yield "\n" + create_table(table)
    for table in schema.tables:
        yield f"\nCOPY {quote(table.name)} {column_list(c.name for c in table.columns)} FROM stdin;\n"
        yield from lines(table)
        yield END_OF_DATA
    for table in schema.tables:
        for key in table.foreign_keys:
            if key.enforced:
                target = f"REFERENCES {quote(key.referred_table)} {column_list(key.referred_columns)}"
                yield f"\nALTER TABLE {quote(table.name)} ADD FOREIGN KEY {column_list(key.columns)} {target};\n"


def copy_lines(columns: tuple[Column, ...], rows: Iterable[tuple[Value, ...]]) -> Iterator[str]:
    """Rows in COPY's text format."""
    encoders = [encoder(column.type) for column in columns]
    for row in rows:
        fields = ("\\N" if v is None else e(v).translate(_ESCAPES) for e, v in zip(encoders, row, strict=True))
        yield "\t".join(fields) + "\n"


def dump(source: Source, schema: Schema) -> Iterator[str]:
    """The dump of `source`, described by `schema`, piece by piece."""
    by_name = {table.name: table for table in source.tables()}
    return statements(schema, lambda table: source.rows(by_name[table.source]))


def write_dump(source: Source, schema: Schema, path: Path) -> None:
    """Write the dump of `source` to `path`, atomically and without holding it in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(dump(source, schema))
    temporary.replace(path)


def load(server: Server, dump: Path, database: str) -> None:
    """Create `database` on `server` and load the dump into it."""
    server.create_database(database)
    with psycopg.connect(server.dsn(database)) as connection, dump.open(encoding="utf-8", newline="\n") as lines:
        run_script(connection, lines)


@contextmanager
def loaded(connection: psycopg.Connection, schema: Schema, lines: Iterable[str]) -> Iterator[None]:
    """The dump's tables in a schema of their own, first in the search path, for the length of the block.

    All within one transaction that is rolled back: much cheaper than a database for each dump, where only this
    connection has to see it.
    """
    name = sql.Identifier(schema.db_id)
    try:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET LOCAL search_path = {}").format(name))
        run_script(connection, lines)
        yield
    finally:
        connection.rollback()


def run_script(connection: psycopg.Connection, lines: Iterable[str]) -> None:
    """Execute what `statements` yields, given line by line; the transaction is left open."""
    lines = iter(lines)
    statement = ""
    for line in lines:
        if not statement and (line.startswith("--") or not line.strip()):
            continue
        statement += line
        if not line.endswith(";\n"):
            continue
        if statement.startswith("COPY "):
            with connection.cursor().copy(statement) as copy:
                for data in iter(lambda: next(lines), END_OF_DATA):
                    copy.write(data)
        else:
            connection.execute(statement)
        statement = ""
