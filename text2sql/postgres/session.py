"""A connection for comparing results: values come back as SQLite has them."""

from __future__ import annotations

import psycopg
from psycopg.types.string import TextLoader

#: types whose values SQLite holds as text
TEXTUAL = ("date", "timestamp", "timestamptz", "time", "interval", "uuid", "json")


def connect(dsn: str, timeout_seconds: float | None = None) -> psycopg.Connection:
    """Connect; dates and times are read as text, and a statement is cancelled after `timeout_seconds`."""
    options = f"-c statement_timeout={int(timeout_seconds * 1000)}" if timeout_seconds else ""
    connection = psycopg.connect(dsn, options=options)
    for name in TEXTUAL:
        connection.adapters.register_loader(name, TextLoader)
    return connection
