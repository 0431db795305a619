"""Descriptions: what is wrong in one is said, and rows are what `values` describes."""

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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("authors.id", "author.id", "shop.books.author: refers to author.id"),
        ("authors.id", "authors.nr", "refers to authors.nr"),
        ("values: id 10", "words: id", "shop.authors.id: neither values nor ref"),
        ("noun: author / authors", "rows: 3", "noun"),
        ("    columns:\n      code", "    key: [isbn]\n    columns:\n      code", "key ('isbn',) names no column"),
        ("rows: 20", "rows: 20\n    amounts: {total: pieces * prize}", "amount of ('pieces', 'prize')"),
        ("rows: 4", "rows: 4\n    data: [[1, Ann]]", "a row of data has not 3 values"),
        ("all: true", "by: on", "shop.books.author: a bare on/off"),
        ("tables:", "tables: [", "ParserError"),
        ("tables:", "table:", "KeyError"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError) as error:
        described(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(error.value)
    assert "shop.yaml" in str(error.value)


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
