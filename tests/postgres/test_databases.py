"""SQLite databases in PostgreSQL: types, names, keys and every kind of bad input."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from text2sql.postgres.databases import describe, load, open_source, write_dump
from text2sql.postgres.databases.check import differences
from text2sql.postgres.server import server
from text2sql.postgres.session import connect


@pytest.fixture(scope="module")
def postgres():
    with server() as running:
        yield running


def make(path: Path, script: str) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()
    return path


def convert(postgres, path: Path, name: str):
    """Describe, dump, load and compare; returns the schema."""
    with open_source(path) as source:
        schema = describe(source, name)
        write_dump(source, schema, path.with_suffix(".sql"))
        load(postgres, path.with_suffix(".sql"), name)
        with connect(postgres.dsn(name)) as connection:
            assert differences(source, schema, connection) == []
    return schema


TYPES = [
    # declared, values, PostgreSQL's type
    ("INTEGER", [1, None, -5], "integer"),
    ("INT", [2**40], "bigint"),
    ("INTEGER", [1, "x", ""], "text"),
    ("INTEGER", [1, 2.5], "double precision"),
    ("REAL", [1, 2.5], "double precision"),
    ("REAL", [float("inf"), 1.5], "double precision"),
    ("DECIMAL(10,2)", [1, 2.5], "numeric"),
    ("DECIMAL(10,2)", [1, 2], "numeric"),
    ("NUMBER(4)", [1, 2], "integer"),
    ("BOOLEAN", [0, 1, None], "boolean"),
    ("BOOLEAN", [0, 2], "integer"),
    ("BOOLEAN", ["T", "F"], "text"),
    ("DATE", ["2020-02-29", None], "date"),
    ("DATE", ["2021-02-29"], "text"),
    ("DATE", ["0000-00-00"], "text"),
    ("DATE", ["2020-2-9"], "text"),
    ("TEXT", ["2020-02-29"], "date"),
    ("TEXT", ["2020-02-29", ""], "text"),
    ("DATETIME", ["2020-02-29 10:00:00"], "timestamp"),
    ("DATETIME", ["2020-02-29 10:00:00.25"], "timestamp"),
    ("DATETIME", ["2020-02-29 10:00:00.250"], "text"),
    ("DATETIME", ["2020-02-29 10:00"], "text"),
    ("DATETIME", ["2020-02-29 25:00:00"], "text"),
    ("TIME", ["23:59:59"], "time"),
    ("DATETIME", ["2020-02-29"], "date"),
    ("VARCHAR(10)", ["12", "7"], "text"),
    ("BLOB", [b"\x00\xff"], "bytea"),
    ("BLOB", [b"abc", "text"], "text"),
    ("", [1, 2], "integer"),
    ("", ["a"], "text"),
    ("INT", [], "integer"),
    ("DATETIME", [], "timestamp"),
    ("VARCHAR(3)", [None], "text"),
    ("DECIMAL(10,2)", [], "numeric"),
    ("BOOL", [], "boolean"),
]


def test_types_hold_declaration_and_values(postgres, tmp_path):
    path = tmp_path / "types.sqlite"
    with sqlite3.connect(path) as connection:
        for number, (declared, values, _) in enumerate(TYPES):
            connection.execute(f"CREATE TABLE t{number} (c {declared})")
            connection.executemany(f"INSERT INTO t{number} VALUES (?)", [(v,) for v in values])
    schema = convert(postgres, path, "types")
    found = [
        (declared, values, table.columns[0].type)
        for (declared, values, _), table in zip(TYPES, schema.tables, strict=True)
    ]
    assert found == TYPES
    assert [table.rows for table in schema.tables] == [len(values) for _, values, _ in TYPES]
