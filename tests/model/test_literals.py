"""Which texts a column may be compared with."""

import pytest

from tests.model.held import admits
from text2sql.model.constraint import Constraints
from text2sql.model.literals import Literals
from text2sql.model.references import Reading, References
from text2sql.schema import Column, Schema, Table

CARS = Schema(
    "cars",
    (
        Table(
            "car",
            "car",
            (
                Column("id", "id", "integer"),
                Column("make", "make", "text", samples=("volvo", "Ford", "O'Hara")),
                Column("note", "note", "text", samples=tuple(map(str, range(9)))),  # more than are kept
                Column("empty", "empty", "text"),
                Column("day", "day", "date", samples=("2020-01-01",)),
            ),
            ("id",),
        ),
    ),
)
QUESTION = "Which Volvo or Saab of Little Town is not from 'USA' ?"


def reading(sql):
    return Reading(References(CARS), Literals(CARS, QUESTION, 9)).after(sql)


@pytest.mark.parametrize(
    ("condition", "admitted"),
    [
        ("make = 'volvo'", True),  # a value
        ("make = 'Volvo'", False),  # the value is spelled otherwise
        ("make = 'FORD'", False),
        ("make = 'O''Hara'", True),
        ("make = 'Saab'", True),  # the question's word
        ("make = 'Little Town'", True),
        ("make = 'Little Tow'", False),  # half a word
        ("make = 'Toyota'", False),
        ("make <> 'Toyota'", False),
        ("make IN ('Ford', 'Saab')", True),
        ("make IN ('Ford', 'Toyota')", False),
        ("make NOT IN ('Toyota')", False),
        ("make ILIKE '%Volv%'", True),
        ("make LIKE 'F%'", True),
        ("make LIKE '%Toyota%'", False),
        ("make > 'M'", True),  # an order asks for no value
        ("lower(make) = 'toyota'", True),  # not the column itself
        ("note = 'anything'", True),  # not all values are known
        ("empty = 'anything'", True),
        ("day = '2021-01-01'", True),  # no text
        ("id = 3 AND make = 'Toyota'", False),
        ("car.make = 'Toyota'", False),
        ("make = ''", True),
    ],
)
def test_texts(condition, admitted):
    assert (reading(f"SELECT id FROM car WHERE {condition} ") is not None) is admitted


@pytest.mark.parametrize(
    ("begun", "admitted"), [("'v", True), ("'V", True), ("'Vx", False), ("'To", True), ("'T ", False)]
)
def test_beginnings(begun, admitted):
    """V: the question's Volvo, which only its whole word shows to be another spelling of a value."""
    assert (reading(f"SELECT id FROM car WHERE make = {begun}") is not None) is admitted


def test_a_value_is_not_taken_twice():
    assert reading("SELECT id FROM car WHERE make = 'volvo' OR make = 'F") is not None
    assert reading("SELECT id FROM car WHERE make = 'Ford' OR make = 'For") is None


def test_without_a_question_any_text_will_do():
    assert admits(References(CARS), "SELECT id FROM car WHERE make = 'Toyota'", ended=True)


@pytest.mark.parametrize(
    ("begun", "byte", "admitted"),
    [
        ("make = 'Sk", "š", True),  # of the value Skšda
        ("make = 'Sk", "ş", False),  # its second byte alone differs
        ("make = 'Sk", "\u0302", False),
        ("make = 'volvo", "\u0302", False),  # was taken, and made 'volvô'
        ("make = '", "Ü", True),  # the question's word
        ("note = 'x", "\u0302", True),  # any text will do
        ("note = 'x", "\U0001f600", True),
    ],
)
def test_a_byte_begins_a_character_of_a_text_that_may_be(begun, byte, admitted):
    columns = (Column("make", "make", "text", samples=("volvo", "Skšda")), Column("note", "note", "text"))
    schema = Schema("cars", (Table("car", "car", columns),))
    constraint = Constraints().of(schema, "Which cars are from Ürün?", 9)  # a token is a byte
    for letter in f"SELECT make FROM car WHERE {begun}".encode():
        constraint.accept(letter)
    first, *others = byte.encode()
    assert constraint.refers(first) is (admitted or byte == "ş")
    if constraint.refers(first):
        constraint.accept(first)
        assert all(constraint.refers(letter) and constraint.accept(letter) is None for letter in others) is admitted
