"""The loaded database against its source: the same rows in every table."""

from __future__ import annotations

from itertools import zip_longest

import psycopg

from text2sql.conversion.databases.describe import blocks
from text2sql.conversion.databases.dump import null_blanks
from text2sql.conversion.databases.sqlite import SqliteDatabase
from text2sql.conversion.engines import as_stored
from text2sql.postgres.compare import same_row, same_rows
from text2sql.schema import Schema, quote


def differences(source: SqliteDatabase, schema: Schema, connection: psycopg.Connection) -> list[str]:
    """Tables whose rows in PostgreSQL are not those of SQLite, each with a first example.

    Both are read in blocks, in the order in which they are stored.
    """
    by_name = {table.name: table for table in source.tables()}
    different = []
    for table in schema.tables:
        columns = ", ".join(quote(column.name) for column in table.columns)
        with connection.cursor(name="rows") as cursor:
            cursor.itersize = 20_000
            cursor.execute(f"SELECT {columns} FROM {quote(table.name)}")
            pairs = zip_longest(blocks(source.rows(by_name[table.source])), blocks(cursor), fillvalue=[])
            for ours, theirs in pairs:
                stored = as_stored([null_blanks(table.columns, row) for row in ours], theirs)
                if not same_rows(stored, theirs, ordered=True):
                    if table.kind == "view":  # of the time, or of chance: each reading is another
                        source.note(f"view {table.name}: it has other rows each time it is read; those of one are here")
                        break
                    rows = zip_longest(stored, theirs, fillvalue=())
                    first = next(pair for pair in rows if not same_row(*pair))
                    different.append(f"{table.name}: {first[0]} in SQLite, {first[1]} in PostgreSQL")
                    break
    return different
