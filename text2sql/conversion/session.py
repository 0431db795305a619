"""A connection for comparing results: values come back as SQLite has them."""

from __future__ import annotations

import psycopg
from psycopg.types.string import TextLoader

#: types whose values SQLite holds as text
TEXTUAL = ("date", "timestamp", "timestamptz", "time", "interval", "uuid", "json")


def connect(dsn: str) -> psycopg.Connection:
    """Connect; dates and times are read as text."""
    connection = psycopg.connect(dsn)
    for name in TEXTUAL:
        connection.adapters.register_loader(name, TextLoader)
    return connection
