"""A database as plain SQL that `psql -f` loads; `text2sql.postgres.load` loads the same file through a connection."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from text2sql.conversion.databases.encode import encoder
from text2sql.conversion.databases.sqlite import SqliteDatabase, Value
from text2sql.errors import UserError
from text2sql.files import whole_file
from text2sql.postgres.load import END_OF_DATA
from text2sql.schema import Column, Schema, Table, quote

#: how long a pipe may be without a reader
READER_SECONDS = 10.0
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})


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


def script(schema: Schema, lines: Callable[[Table], Iterable[str]]) -> Iterator[str]:
    """The dump, piece by piece: tables, their rows, and the foreign keys last, so that circles of them load.

    `lines` gives a table's rows in COPY's text format.
    """
    yield "-- Load with: psql -v ON_ERROR_STOP=1 -f FILE DATABASE (made with LOCALE 'C': text sorts as in SQLite)\n"
    yield "SET client_encoding = 'UTF8';\n"
    # A table that is called as PostgreSQL would call the index of another's key comes before that: the index then gets
    # another name.
    for table in sorted(schema.tables, key=lambda t: -len(t.name) if t.name.endswith(("_pkey", "_key")) else 0):
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
        values = null_blanks(columns, row)
        fields = ("\\N" if v is None else e(v).translate(_ESCAPES) for e, v in zip(encoders, values, strict=True))
        yield "\t".join(fields) + "\n"


def null_blanks(columns: tuple[Column, ...], row: tuple[Value, ...]) -> tuple[Value, ...]:
    """A row of SQLite with NULL where PostgreSQL's column holds NULL for an empty text."""
    if "" not in row:
        return row
    return tuple(None if v == "" and c.blanks_are_null else v for c, v in zip(columns, row, strict=True))


def dump(source: SqliteDatabase, schema: Schema) -> Iterator[str]:
    """The dump of `source`, described by `schema`, piece by piece."""
    by_name = {table.name: table for table in source.tables()}
    return script(schema, lambda table: copy_lines(table.columns, source.rows(by_name[table.source])))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a dump to `path` without holding it in memory: a file is replaced when all is written; what is no plain
    file (a pipe, a device, a link to either) is written to.

    Raises:
        UserError: `path` cannot be written.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            with open(path, "w", encoding="utf-8", newline="\n", opener=_opener) as out:  # Path.open has no opener
                out.writelines(lines)
        else:
            with whole_file(path) as out:
                out.writelines(lines)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "name a file that can be") from None


def _opener(path: str, flags: int) -> int:
    """Open a file that is there already; a pipe that nobody reads is an error after a while, no wait without end."""
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > deadline:
                raise OSError(error.errno, f"nobody reads it for {READER_SECONDS:g} s") from None
            time.sleep(0.1)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def write_dump(source: SqliteDatabase, schema: Schema, path: Path) -> None:
    """Write the dump of `source`, as `write_lines` does."""
    write_lines(path, dump(source, schema))
