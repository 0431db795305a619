"""sql-eval: its notation of golds, a pinned clock, and the verdict of its authors; on a small set of the same form."""

import argparse
import dataclasses
import datetime
from decimal import Decimal

import pytest
import yaml

from benchmarks.sql_eval import answers, authors_verdict, judge_sql_eval, read_whole
from tests.scripted import Scripted
from text2sql.ask.engine import Engine
from text2sql.config import compose, section
from text2sql.data import sql_eval
from text2sql.data.sql_eval import SqlEval, fetch_files, golds_of, pinned
from text2sql.errors import UserError
from text2sql.files import read_jsonl, sha256
from text2sql.postgres.compare import Result
from text2sql.schema import read_index


@pytest.mark.parametrize(
    ("query", "golds"),
    [
        ("SELECT 1; ", ["SELECT 1"]),
        ("SELECT {a} FROM t;SELECT 2", ["SELECT a FROM t", "SELECT 2"]),
        (
            "SELECT {a.id, a.name}, sum(x) FROM a GROUP BY {} ORDER BY 2",
            [
                "SELECT a.id, sum(x) FROM a GROUP BY a.id ORDER BY 2",
                "SELECT a.name, sum(x) FROM a GROUP BY a.name ORDER BY 2",
                "SELECT a.id, a.name, sum(x) FROM a GROUP BY a.id, a.name ORDER BY 2",
            ],
        ),
    ],
)
def test_golds(query, golds):
    assert list(golds_of(query)) == golds


@pytest.mark.parametrize(
    ("sql", "same"),
    [
        ("SELECT CURRENT_DATE - day FROM t", "SELECT CAST('2024-06-01' AS DATE) - day FROM t"),
        ("SELECT now()", "SELECT CAST('2024-06-01 12:00:00+00' AS TIMESTAMPTZ)"),
        ("SELECT  day FROM t", "SELECT  day FROM t"),  # as it is written
        ("not ( SQL", "not ( SQL"),
    ],
)
def test_the_clock_is_pinned(sql, same):
    assert pinned(sql, "2024-06-01") == same


ONE = Result(("n",), [(1,)])
NAMES = Result(("name", "n"), [("a", 1), ("b", 2)])


@pytest.mark.parametrize(
    ("gold", "predicted", "category", "correct"),
    [
        (ONE, Result(("x",), [(Decimal("1.000001"),)]), "ratio", True),  # a name of its own; nearly the same number
        (ONE, Result(("x",), [("1",)]), "ratio", False),
        (ONE, Result(error="timeout"), "ratio", False),
        (NAMES, Result(("n", "name"), [(2, "b"), (1, "a")]), "group_by", True),  # columns and rows in another order
        (NAMES, Result(("k", "name", "n"), [(7, "b", 2), (8, "a", 1)]), "group_by", True),  # a column more
        (NAMES, Result(("name", "n"), [("a", 2), ("b", 1)]), "group_by", False),  # other pairs
        (NAMES, Result(("name",), [("a",), ("b",)]), "group_by", False),  # a column less
        (
            NAMES,
            Result(("name", "n"), [("a", 1), ("a", 1), ("b", 2)]),
            "group_by",
            True,
        ),  # a row twice, columns by name
        (Result(("n",), [(3,), (1,), (2,)]), Result(("n",), [(1,), (3,), (2,)]), "order_by", False),
        (Result(("n",), [(3,), (1,), (2,)]), Result(("n",), [(1,), (3,), (2,)]), "group_by", True),
        (Result(("n",), []), Result(("n",), []), "group_by", True),
        (Result(("n",), []), NAMES, "group_by", False),
        (Result(("d",), [(None,), ("x",)]), Result(("d",), [("x",), (None,)]), "group_by", True),
        (Result(("d",), [(datetime.date(2024, 1, 1),)]), Result(("d",), [("2024-01-01",)]), "group_by", True),
    ],
)
def test_the_verdict_of_its_authors(gold, predicted, category, correct):
    assert authors_verdict(gold, predicted, category, "What?") is correct


SHOP = """
CREATE TABLE public.author (aid bigint NOT NULL, name text, born date);
COPY public.author (aid, name, born) FROM stdin;
1\tAnn\t1990-05-31
2\tBo\t2000-01-01
\\.
ALTER TABLE ONLY public.author ADD CONSTRAINT author_pkey PRIMARY KEY (aid);
"""
ROWS = """question,query,db_name,query_category,instructions
Who is there?,"SELECT {author.name, author.aid} FROM author;",shop,group_by,Use no
How old is the eldest?,SELECT CURRENT_DATE - min(born) FROM author,shop,date_functions,
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The set's files, and its options."""
    root = tmp_path / "raw"
    (root / "databases").mkdir(parents=True)
    (root / "databases/shop.sql").write_text(SHOP)
    (root / sql_eval.QUESTIONS).write_text(ROWS)
    names = (sql_eval.QUESTIONS, "databases/shop.sql")
    monkeypatch.setattr(sql_eval, "HASHES", {name: sha256(root / name) for name in names})
    chosen = section(SqlEval, "data.source", yaml.safe_load(compose(["data=sql_eval"])))
    return root, dataclasses.replace(chosen, folder=str(root), embedded=1)


def test_from_files_to_verdicts(shop, tmp_path):
    (root, chosen), target = shop, tmp_path / "source"
    assert chosen.make(1, target)["examples"] == {"dev.json": 2}
    first, _ = read_jsonl(target / "postgres/examples.jsonl")
    assert (first["id"], first["question"], first["status"]) == ("dev-0", "Who is there? Use no", "verified")
    assert len(first["golds"]) == 3
    assert (target / "train_spider.json").exists()
    placed = read_whole(read_index(target / "postgres/schema_index.json")["shop"])
    assert placed.target.read == {"author"}  # so that texts are held to its values
    assert placed.tables[0].columns[1].samples == ("Ann", "Bo")
    given = {"dev-0": "SELECT aid, 7 AS x FROM author", "dev-1": "SELECT date '2024-06-01' - date '1990-05-31'"}
    verdicts = {
        row["id"]: (row["authors"], row["suite"]) for row in judge_sql_eval(target / "postgres", given, chosen.today)
    }
    assert verdicts == {"dev-0": (True, False), "dev-1": (True, True)}
    (root / "databases/shop.sql").write_text("")
    with pytest.raises(UserError, match="not the pinned"):
        fetch_files(root, "", "")


@pytest.mark.parametrize(
    ("run", "given"),
    [(False, "SELECT nobody FROM author"), (True, "SELECT name FROM author")],  # which the second try finds
)
def test_answers_are_those_of_ask(shop, tmp_path, monkeypatch, run, given):
    (_, chosen), target = shop, tmp_path / "source"
    chosen.make(1, target)
    script = Scripted({"Who is there? Use no": ["select nobody from author", "select name from author"]})
    monkeypatch.setattr(Engine, "load", lambda *_: script)
    answered = answers(target / "postgres", chosen.today, argparse.Namespace(model="", limit=1, candidates=1, run=run))
    assert {name: " ".join(sql.split()) for name, sql in answered.items()} == {"dev-0": given}


def test_what_is_missing_is_downloaded(tmp_path, monkeypatch):
    served = tmp_path / "served.sql"
    served.write_text(SHOP)
    monkeypatch.setattr(sql_eval, "HASHES", {"databases/served.sql": sha256(served)})
    fetch_files(tmp_path / "raw", "", (tmp_path / "{name}.sql").as_uri().replace("%7B", "{").replace("%7D", "}"))
    assert (tmp_path / "raw/databases/served.sql").read_text() == SHOP
