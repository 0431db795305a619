"""The loaded database against its source: the same rows in every table."""

from __future__ import annotations

from itertools import zip_longest

import psycopg

from text2sql.conversion.databases.describe import blocks
from text2sql.conversion.databases.names import quote
from text2sql.conversion.databases.sqlite import Source
from text2sql.conversion.equivalence import same_row, unmatched
from text2sql.schema import Schema


def differences(source: Source, schema: Schema, connection: psycopg.Connection) -> list[str]:
    """Tables whose rows in PostgreSQL are not those of SQLite, each with a first example.

    Both are read in blocks, in the order in which they are stored.
    """
    by_name = {table.name: table for table in source.tables()}
    found = []
    for table in schema.tables:
        columns = ", ".join(quote(column.name) for column in table.columns)
        with connection.cursor(name="rows") as cursor:
            cursor.itersize = 20_000
            cursor.execute(f"SELECT {columns} FROM {quote(table.name)}")
            pairs = zip_longest(blocks(source.rows(by_name[table.source])), blocks(cursor), fillvalue=[])
            for left, right in pairs:
                if left != right and not (len(left) == len(right) and all(map(same_row, left, right))):
                    ours, theirs = unmatched(left, right)
                    found.append(f"{table.name}: {ours[:1]} is not {theirs[:1]}")
                    break
    return found
