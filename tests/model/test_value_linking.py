"""Values of the database that a question names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.model.prompt import PromptOptions, render
from text2sql.model.value_linking import COMMON, mentioned_values
from text2sql.schema import Column, Schema, Table


def table(name: str, **columns: tuple[str, ...]) -> Table:
    return Table(name, name, tuple(Column(c, c, "text", samples=values) for c, values in columns.items()))


FLIGHTS = Schema(
    "flights",
    (
        table("airports", city=("Aberdeen ", "York", "New York"), code=("APG", "AND", "NY"), country=("usa", "O'Land")),
        table("flights", source=("APG", "AND"), cabin=("A", "first class", "dog"), year=("2014", "4")),
        Table("seats", "seats", (Column("number", "number", "integer", samples=("2014", "17")),)),
    ),
)
CASES = {
    "How many flights leave from Aberdeen?": ["airports.city = Aberdeen"],
    "how many flights leave from aberdeen": ["airports.city = Aberdeen"],
    "Flights to New York?": ["airports.city = New York"],  # and not York
    "Flights from York to New York?": ["airports.city = New York", "airports.city = York"],
    "Flights from 'APG'?": ["airports.code = APG", "flights.source = APG"],
    "Flights and airports": [],
    "Flights from AND to NY": ["airports.code = NY"],
    "Flights from 'AND' or ny": ["airports.code = AND", "flights.source = AND"],
    "Airports of the USA": ["airports.country = usa"],
    "Airports of O'Land": ["airports.country = O'Land"],
    "A flight in first-class": ["flights.cabin = first class"],
    "A flight in cabin 'A'": ["flights.cabin = A"],
    "May dogs fly?": ["flights.cabin = dog"],
    "Which of the 4 flights was in 2014?": ["flights.year = 2014"],  # numbers in columns of numbers are not looked for
    "": [],
}


@pytest.mark.parametrize(("question", "expected"), CASES.items())
def test_values_that_a_question_names(question, expected):
    assert [f"{m.table}.{m.column} = {m.value}" for m in mentioned_values(question, FLIGHTS, 9)] == expected


def test_no_more_than_asked_for():
    assert len(mentioned_values("From 'APG' to Aberdeen in 2014", FLIGHTS, 2)) == 2
    assert not mentioned_values("From 'APG' to Aberdeen in 2014", FLIGHTS, 0)


@given(st.text(), st.lists(st.text(max_size=50), max_size=5))
def test_any_text_does(question, values):
    schema = Schema("s", (table("t", c=tuple(values)),))
    assert {m.value for m in mentioned_values(question, schema, 5)} <= {" ".join(v.split()) for v in values}


@given(st.lists(st.from_regex(r"[A-Za-z]{4,9}( [A-Za-z]{4,9}){0,3}", fullmatch=True), min_size=1, max_size=5))
def test_a_value_alone_is_found(values):
    schema = Schema("s", (table("t", c=tuple(values)),))
    for value in values:
        if not set(value.casefold().split()) & COMMON:
            assert value in {m.value for m in mentioned_values(f"Which have {value}?", schema, 9)}


def test_the_prompt_shows_them_after_the_question():
    prompt = render(FLIGHTS, "How many flights to O'Land?", PromptOptions("ddl", 0, "tables", 3), "mistral")
    assert prompt.endswith("\n\nQuestion: How many flights to O'Land?\nValues: airports.country = 'O''Land' [/INST]")
    without = render(FLIGHTS, "How many flights?", PromptOptions("ddl", 0, "tables", 3), "mistral")
    assert without.endswith("\n\nQuestion: How many flights? [/INST]")
