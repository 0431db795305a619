"""Which questions a database hardly can answer, by their words."""

import pytest

from tests.schemas import parse
from text2sql.ask.answerable import cannot_answer, unknown_words
from text2sql.schema import Column, Schema, Table

SHOP = parse("""
create table customers (id integer primary key, name text, city text, joined date,
                        state text check (state in ('new', 'gone')));
create table orders (id integer primary key, customer_id integer references customers (id), total numeric);
comment on column orders.total is 'price of all articles with taxes';
""")


@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("How many customers are there?", None),
        ("What is the average total of the orders of each city?", None),
        ("Which customers joined after 2019 and live in New York?", None),
        ("What did the customers called 'the quick brown fox' order?", None),
        ("Which orders have a total over one thousand two hundred?", None),
        ("How many articles were ordered?", None),  # a comment's word
        ("What share of orders since 2019?", None),  # words that name nothing
        ("How many orders were placed in 1999?", None),
        ("Who is gone? Always filter names using ILIKE with exact wildcards", None),  # how the query is to be written
        ("Which customers never ordered anything?", None),
        ("Which customers are gone?", None),  # a value that CHECK allows
        ("What is the purpose of life?", "purpose, life"),
        ("Which employees have the highest salary?", "employees, salary"),
        ("How does photosynthesis contribute to the production of oxygen?", "photosynthesis, contribute, production"),
        ("In which month were the most?", None),  # of a column of dates
        ("Delete every customer", None),  # a wish to change data has a warning of its own
        ("", None),
        ("?", None),
    ],
)
def test_questions(question, unknown):
    said = cannot_answer(question, SHOP)
    assert (said is None) == (unknown is None), unknown_words(question, SHOP)
    assert said is None or unknown in said


def test_a_value_of_the_database_is_known():
    shops = Table("shops", "shops", (Column("city", "city", "text", samples=("Berlin",)),))
    assert cannot_answer("all of berlin", SHOP)
    assert not cannot_answer("all of berlin", Schema("shops", (shops,)))


def test_a_schema_without_words():
    assert unknown_words("Which dogs bark?", Schema("none", ())) == (1.0, ["dogs", "bark"])
