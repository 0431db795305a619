"""Shared fixtures: a miniature data set in Spider's layout, and the real Spider where SPIDER_ARCHIVE names it."""

import json
import os
import random
import sqlite3
import sys
from pathlib import Path

import dvc  # noqa: F401 its loggers keep the streams of the first import: these last, a single test's do not
import pytest

from text2sql.model.process import prepare

prepare()  # as stages do: otherwise torch's threads spin, and two test processes slow each other down


@pytest.fixture(autouse=True)
def same_chance():
    """What a test draws does not depend on the tests that its worker ran before."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


SHOP = """
CREATE TABLE shop (shop_id INTEGER PRIMARY KEY, Name TEXT, City TEXT);
CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, shop_id INTEGER REFERENCES shop(shop_id), amount REAL);
INSERT INTO shop VALUES (1, 'Corner', 'Lyon'), (2, 'Market', 'Nice');
INSERT INTO sale VALUES (1, 1, 9.5), (2, 1, 3.25), (3, 2, 20.0);
"""


def write_layout(root: Path, databases: dict[str, str], examples: dict[str, list[tuple[str, str, str]]]) -> Path:
    """A folder in Spider's layout: db_id -> script, and file stem -> (db_id, question, sql)."""
    tables = []
    for db_id, script in databases.items():
        path = root / "database" / db_id / f"{db_id}.sqlite"
        path.parent.mkdir(parents=True)
        connection = sqlite3.connect(path)
        connection.executescript(script)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        connection.close()
        entry = {"db_id": db_id, "table_names_original": names, "column_names_original": [[-1, "*"]]}
        tables.append(entry)
    (root / "tables.json").write_text(json.dumps(tables))
    for stem in ("train_spider", "train_others", "dev"):
        rows = [{"db_id": d, "question": q, "query": s} for d, q, s in examples.get(stem, [])]
        (root / f"{stem}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def layout(tmp_path):
    """A small valid layout with one training and one dev database."""
    return write_layout(
        tmp_path / "spider_data",
        {"shop": SHOP, "market": SHOP},
        {
            "train_spider": [("shop", "How many shops are there?", "SELECT count(*) FROM shop")],
            "dev": [("market", "List the cities.", "SELECT City FROM shop")],
        },
    )


@pytest.fixture(scope="session")
def spider_archive() -> Path:
    """The real Spider archive; the test is skipped, saying so, where SPIDER_ARCHIVE does not name it."""
    path = os.environ.get("SPIDER_ARCHIVE")
    if not path or not Path(path).exists():
        pytest.skip("SPIDER_ARCHIVE does not name an archive of Spider")
    return Path(path)
