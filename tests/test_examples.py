"""examples/: what the documents ask questions about."""

import sqlite3
from pathlib import Path

import psycopg

from text2sql.postgres.server import server

EXAMPLES = Path(__file__).parent.parent / "examples"
TABLES = ("customers", "products", "orders", "order_items")


def test_both_engines_load_the_script_and_hold_the_same_rows():
    script = (EXAMPLES / "shop.sql").read_text()
    with server() as running:
        running.create_database("shop")
        with psycopg.connect(running.dsn("shop")) as postgres, sqlite3.connect(EXAMPLES / "shop.sqlite") as committed:
            postgres.execute(script)
            scratch = sqlite3.connect(":memory:")
            scratch.executescript(script)
            for table in TABLES:
                rows = scratch.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                assert committed.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() == rows
                loaded = postgres.execute(f"SELECT count(*) FROM {table}").fetchone()
                assert loaded == (len(rows),)
