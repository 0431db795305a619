"""Descriptions are consistent, and rows are what `values` describes."""

import datetime

import pytest

from text2sql.data.mini.domain import load_domain, load_folder
from text2sql.data.mini.english import spoken
from text2sql.data.mini.rows import make_rows
from text2sql.errors import UserError

GOOD = """
tables:
  authors:
    noun: author / authors
    rows: 4
    columns:
      id: {type: INTEGER, values: id 10}
      name: {type: TEXT, values: [Ann, Bo, Cy, Di], unique: true}
      price: {type: REAL, values: 1.50..9.90}
  books:
    noun: book / books
    rows: 20
    columns:
      code: {type: TEXT, values: "B-##"}
      author: {type: INTEGER, ref: authors.id, all: true}
      bought: {type: DATE, values: 2020-02-01..2020-02-29}
      sold: {type: DATE, values: bought + 1..3, missing: 0.5}
      pieces: {type: INTEGER, values: 10..30 step 5}
      sum: {type: REAL, values: copy author.price * pieces}
"""


def described(tmp_path, text):
    path = tmp_path / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    return load_domain(path)


def problems(domain):
    """What is inconsistent in a description."""
    seen = set()
    for table in domain.tables:
        where = f"{domain.db_id}.{table.name}"
        if any(table.column(k) is None for k in table.key):
            yield f"{where}: key {table.key} names no column"
        if len({c.name.lower() for c in table.columns}) != len(table.columns):
            yield f"{where}: two columns of one name"
        if any(len(row) != len(table.columns) for row in table.data):
            yield f"{where}: a row of data has not {len(table.columns)} values"
        for column in table.columns:
            if column.ref:
                target = domain.table(column.ref[0])
                if target is None or target.column(column.ref[1]) is None:
                    yield f"{where}.{column.name}: refers to {'.'.join(column.ref)}, which is not there"
                elif target is not table and column.ref[0] not in seen:
                    yield f"{where}.{column.name}: {column.ref[0]} must come before {table.name}"
            if any(column.phrases.get(k) in (True, False) for k in ("by", "have", "where", "as")):
                yield f"{where}.{column.name}: a bare on/off/yes/no is a truth value in YAML, put it in quotes"
            if column.ref is None and column.values is None and not table.data:
                yield f"{where}.{column.name}: neither values nor ref"
        for pair in table.amounts.values():
            if any(table.column(name) is None for name in pair):
                yield f"{where}: amount of {pair} names no column"
        seen.add(table.name)


@pytest.mark.parametrize("folder", ["domains", "demo"])
def test_the_descriptions_are_consistent(folder):
    assert [problem for domain in load_folder(folder) for problem in problems(domain)] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("authors.id", "author.id", "shop.books.author: refers to author.id"),
        ("values: id 10", "words: id", "shop.authors.id: neither values nor ref"),
        ("    columns:\n      code", "    key: [isbn]\n    columns:\n      code", "key ('isbn',) names no column"),
        ("all: true", "by: on", "shop.books.author: a bare on/off"),
    ],
)
def test_the_check_sees_a_wrong_description(tmp_path, old, new, message):
    assert old in GOOD
    (problem,) = problems(described(tmp_path, GOOD.replace(old, new, 1)))
    assert message in problem


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows: 4", "rows: 5", "4 values for 5 unique ones"),
        ('"B-##"', '"B-#"', "fewer than 20 distinct"),
        ("1.50..9.90", "planet", "none of the known forms"),
    ],
)
def test_impossible_values_are_refused(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        make_rows(described(tmp_path, GOOD.replace(old, new, 1)), 1)


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_as_described(tmp_path, seed):
    rows = make_rows(described(tmp_path, GOOD), seed)
    authors, books = rows["authors"], rows["books"]
    assert [a[0] for a in authors] == [10, 11, 12, 13]
    assert {a[1] for a in authors} == {"Ann", "Bo", "Cy", "Di"}
    price = {a[0]: a[2] for a in authors}
    assert all(1.5 <= p <= 9.9 and round(p, 2) == p for p in price.values())
    assert {b[1] for b in books} == set(price), "all: true leaves no parent without children"
    assert len({b[0] for b in books}) == 20
    for _, author, bought, sold, pieces, total in books:
        day = datetime.date.fromisoformat(bought)
        assert (day.year, day.month) == (2020, 2)
        assert sold is None or 1 <= (datetime.date.fromisoformat(sold) - day).days <= 3
        assert pieces in range(10, 31, 5)
        assert total == round(price[author] * pieces, 2)
    assert any(b[3] is None for b in books)


def test_a_change_to_one_column_leaves_the_others(tmp_path):
    before = make_rows(described(tmp_path, GOOD), 1)["books"]
    after = make_rows(described(tmp_path, GOOD.replace("10..30 step 5", "40..90")), 1)["books"]
    assert [row[:4] for row in before] == [row[:4] for row in after]
    assert [row[4] for row in before] != [row[4] for row in after]


def test_every_key_of_a_description_is_known():
    """A misspelt phrase would be ignored."""
    known = "by have did never as all where more less after before during span most least holds fails none some role"
    known = {*known.split(), "countable", "sum", "adjective"}
    for domain in load_folder("domains") + load_folder("demo"):
        for table in domain.tables:
            for column in table.columns:
                assert column.phrases.keys() <= known, (domain.db_id, table.name, column.name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("unit_price", "unit price"), ("UnitPrice", "unit price"), ("StoreID", "store id"), ("Home Town", "home town")],
)
def test_spoken(name, words):
    assert spoken(name) == words
