"""Predictions on shuffled rows, and on what the gold query leaves open."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from random import Random

import pytest

from text2sql.conversion.databases import describe, open_source, write_dump
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.schema import quote
from text2sql.scoring.judge import is_possible, judge
from text2sql.scoring.shuffled import NULL, judge_on_shuffled, keys_of_several, shuffled_lines, units

LIMITS = Limits(timeout_seconds=10.0, max_rows=1000)
SCRIPT = """
CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT UNIQUE, city TEXT, age INT);
CREATE TABLE sale (shop INT REFERENCES shop (id), "the day" INT, amount REAL, PRIMARY KEY (shop, "the day"));
INSERT INTO shop VALUES (1, 'a', 'x', 10), (2, 'b', 'y', 20), (3, 'c', NULL, 30), (4, 'd', 'x', 40), (5, 'e', 'y', 40);
INSERT INTO sale VALUES (1, 1, 5), (1, 2, 6), (2, 1, 7), (3, 1, NULL), (4, 9, 8), (5, 9, 3);
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection:
        connection.executescript(SCRIPT)
    with open_source(folder / "shop.sqlite") as source:
        schema = describe(source, "shop")
        write_dump(source, schema, folder / "shop.sql")
    return folder, schema


def test_values_move_and_keys_hold(shop):
    folder, schema = shop
    before = (folder / "shop.sql").read_text().splitlines(keepends=True)
    after = list(shuffled_lines(before, Random(0)))
    assert after == list(shuffled_lines(before, Random(0)))
    assert after != before
    keys = keys_of_several(before)
    assert keys == {"sale": [["shop", '"the day"']]}
    for table in schema.tables:
        start = next(i for i, line in enumerate(before) if line.startswith(f"COPY {table.name} (")) + 1
        rows = [line[:-1].split("\t") for line in before[start : start + table.rows]]
        moved = [line[:-1].split("\t") for line in after[start : start + table.rows]]
        for unit in units([quote(column.name) for column in table.columns], keys.get(table.name, [])):
            old, new = ([tuple(row[i] for i in unit) for row in side] for side in (rows, moved))
            assert Counter(old) == Counter(new)
            assert [NULL in value for value in old] == [NULL in value for value in new]


QUESTIONS = [
    # gold, predicted, right on the rows as they are, on shuffled rows as well, and with what the gold leaves open
    ("SELECT name FROM shop ORDER BY age LIMIT 1", "SELECT name FROM shop ORDER BY id LIMIT 1", True, False, True),
    ("SELECT name FROM shop ORDER BY age LIMIT 1", "SELECT name FROM shop WHERE age = 10", True, True, True),
    ("SELECT name FROM shop ORDER BY age DESC, id LIMIT 1", "SELECT 'e'", False, False, False),
    ("SELECT name FROM shop ORDER BY age DESC LIMIT 1", "SELECT 'e'", False, False, True),
    ("SELECT name, age FROM shop ORDER BY age DESC LIMIT 1", "SELECT 40, 'e'", False, False, True),
    ("SELECT name FROM shop ORDER BY age DESC LIMIT 1", "SELECT 'c'", False, False, False),
    (
        "SELECT city, count(*) FROM shop GROUP BY city",
        "SELECT count(*), city FROM shop GROUP BY city",
        True,
        True,
        True,
    ),
    ("SELECT sum(amount) FROM sale", "SELECT 29", True, True, True),  # the values are the same ones
    ("SELECT nothing FROM shop", "SELECT 1", None, None, None),
]


def test_verdicts(shop):
    folder, _ = shop
    rows = [{"db_id": "shop", "gold": gold, "predicted": predicted} for gold, predicted, *_ in QUESTIONS]
    with loaded_sandbox(["shop"], folder, LIMITS, 2) as sandbox:
        for row in rows:
            judged = judge(sandbox, "shop", row["gold"], row["predicted"])
            row.update(judged.row(is_possible(sandbox, "shop", row["gold"], judged)))
    judge_on_shuffled(rows, folder, LIMITS, 2)
    keys = ("gold", "predicted", "verdict_suite", "verdict_shuffled", "verdict_open")
    assert [tuple(row[key] for key in keys) for row in rows] == QUESTIONS
