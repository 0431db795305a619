"""SQLite databases as PostgreSQL databases: read (`sqlite`), described (`infer`, `describe`), written (`dump`)."""

from text2sql.postgres.databases.describe import describe
from text2sql.postgres.databases.dump import load, loaded, write_dump
from text2sql.postgres.databases.sqlite import Source, open_source

__all__ = ["Source", "describe", "load", "loaded", "open_source", "write_dump"]
