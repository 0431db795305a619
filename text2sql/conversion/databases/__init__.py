"""SQLite databases as PostgreSQL databases: read (`sqlite`), described (`infer`, `describe`), written (`dump`)."""

from text2sql.conversion.databases.describe import describe
from text2sql.conversion.databases.dump import write_dump
from text2sql.conversion.databases.sqlite import SqliteDatabase, open_source

__all__ = ["SqliteDatabase", "describe", "open_source", "write_dump"]
