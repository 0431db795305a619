"""The embedded data set as written to disk: the same bytes for a seed, sound databases, gold queries that answer."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from text2sql.data.mini import add_embedded, generate_dataset
from text2sql.data.mini.domain import load_folder
from text2sql.data.spider.examples import source_examples
from text2sql.data.spider.layout import verify_layout
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.scoring.hardness import hardness

DEMO = {
    "ecommerce": {"customers", "products", "orders", "order_items", "reviews"},
    "finance": {"customers", "accounts", "transactions", "loans", "credit_cards"},
    "healthcare": {"patients", "doctors", "departments", "appointments", "prescriptions"},
    "saas": {"organizations", "users", "plans", "subscriptions", "features"},
    "retail": {"stores", "employees", "products", "inventory", "sales"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("mini")
    generate_dataset(target, seed=42, questions_per_domain=60)
    return target


def read(made, name):
    return json.loads((made / name).read_text(encoding="utf-8"))


def connect(made, db_id):
    return sqlite3.connect(made / "database" / db_id / f"{db_id}.sqlite")


def test_a_seed_decides_every_byte(tmp_path):
    """In a process with other hashes too; and no file tells which SQLite wrote it."""
    for name, seed in (("one", 7), ("other", 8)):
        generate_dataset(tmp_path / name, seed=seed, questions_per_domain=5)
    code = "import sys, pathlib, text2sql.data.mini as mini; mini.generate_dataset(pathlib.Path(sys.argv[1]), 7, 5)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "two"], check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    one, two, other = (sha256_tree(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    differs = {name.split("/")[1] if "/" in name else name for name in one if one[name] != other[name]}
    assert "train_spider.json" in differs
    assert not differs & {"dev.json", *DEMO}, "the demo domains do not depend on the seed"
    for path in (tmp_path / "one").rglob("*.sqlite"):
        header = path.read_bytes()[:100]
        assert header[16:18] == (4096).to_bytes(2, "big"), "page size"
        assert header[24:28] == header[92:96] == (1).to_bytes(4, "big"), "change counter, version valid for"
        assert header[96:100] == (3040000).to_bytes(4, "big"), "version of SQLite"


def test_embedded_examples_beside_another_data_set(layout, made):
    before = sha256_tree(layout)
    add_embedded(layout, seed=42, questions_per_domain=60, ratios=0.0)
    after = sha256_tree(layout)
    assert {name for name in before if after[name] != before[name]} == {"tables.json"}
    assert read(layout, "embedded.json") == read(made, "train_spider.json")
    report = verify_layout(layout)
    assert report["examples"]["embedded.json"] == 60 * (report["databases"] - 2)
    assert report["not_in_tables_json"] == []
    assert [e.id for e in source_examples(layout)][-1] == f"embedded-{report['examples']['embedded.json'] - 1}"


def test_an_embedded_database_that_is_there_already_is_refused(layout):
    (layout / "database" / "chess_club").mkdir()
    before = sha256_tree(layout)
    with pytest.raises(UserError, match="chess_club"):
        add_embedded(layout, seed=42, questions_per_domain=1, ratios=0.5)
    assert sha256_tree(layout) == before


def test_layout(made):
    assert read(made, "train_others.json") == []
    tables = read(made, "tables.json")
    assert [t["db_id"] for t in tables] == sorted(p.name for p in (made / "database").iterdir())
    for entry in tables:
        assert entry["column_names"][0] == entry["column_names_original"][0] == [-1, "*"]
        assert len(entry["column_names"]) == len(entry["column_names_original"]) == len(entry["column_types"])
        with connect(made, entry["db_id"]) as database:
            for number, table in enumerate(entry["table_names_original"]):
                columns = [name for _, name, *_ in database.execute(f'PRAGMA table_info("{table}")')]
                assert columns == [name for t, name in entry["column_names_original"] if t == number]


def test_databases_are_sound(made):
    for folder in (made / "database").iterdir():
        with connect(made, folder.name) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                assert database.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0] > 0


def test_demo_domains(made):
    demo = {d.db_id: {t.name for t in d.tables} for d in load_folder("demo")}
    assert demo == DEMO
    training = [{t.name.lower() for t in d.tables} for d in load_folder("domains")]
    for tables in demo.values():
        assert all(len(tables & names) <= 1 for names in training)


def test_demo_questions_have_answers_without_ties(made):
    dev = read(made, "dev.json")
    assert Counter(e["db_id"] for e in dev) == dict.fromkeys(DEMO, 10)
    for example in dev:
        rows = connect(made, example["db_id"]).execute(example["query"]).fetchall()
        assert rows, example
        assert all(value is not None for row in rows for value in row), example


def test_training_questions(made):
    train, dev = read(made, "train_spider.json"), read(made, "dev.json")
    asked = {e["question"].lower() for e in train}
    assert not asked & {e["question"].lower() for e in dev}
    assert len({(e["db_id"], e["query"]) for e in train}) == len(train)
    assert len({(e["db_id"], e["question"].lower()) for e in train}) == len(train)
    assert set(Counter(e["db_id"] for e in train).values()) == {60}
    for example in train:
        assert connect(made, example["db_id"]).execute(example["query"]).fetchall(), example


def test_hardness_covers_four_levels(made):
    for name, least in (("train_spider.json", 0.08), ("dev.json", 0.08)):
        examples = read(made, name)
        levels = Counter(hardness(e["query"], "sqlite") for e in examples)
        assert set(levels) == {"easy", "medium", "hard", "extra"}
        assert min(levels.values()) >= least * len(examples), levels


def test_the_sample_in_the_documentation_is_true(made):
    """docs/MINI.md shows pairs of seed 42: they are what is generated."""
    text = (Path(__file__).parents[3] / "docs" / "MINI.md").read_text(encoding="utf-8")
    shown = re.findall(r"^- \*\*(\w+)\*\*, `(\w+)`: (.+)\n  ```sql\n  (.+)\n", text, flags=re.MULTILINE)
    assert len(shown) == 15
    train = {(e["db_id"], e["question"], e["query"]) for e in read(made, "train_spider.json")}
    for level, db_id, question, query in shown:
        assert (db_id, question, query) in train, question
        assert hardness(query, "sqlite") == level
