"""Which tables of a large schema a question is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.model.relevant_tables import WEIGHTS, choose_tables, evidence, probabilities
from text2sql.schema import Column, ForeignKey, Schema, Table


def table(name, *columns, keys=(), comment="", samples=()):
    parts = tuple(Column(column, column, "text", samples=samples) for column in columns)
    foreign = tuple(ForeignKey((f"{target}_id",), target, ("id",)) for target in keys)
    return Table(name, name, parts, ("id",), foreign, comment=comment)


SHOP = Schema(
    "shop",
    (
        table("customers", "id", "name", "city", samples=("Berlin",)),
        table("orders", "id", "customers_id", "orderedOn", keys=("customers",)),
        table("order_items", "id", "orders_id", "products_id", keys=("orders", "products")),
        table("products", "id", "title", "price"),
        table("audit", "id", "payload", comment="who logged in when"),
    ),
)
SIZES = {each.name: 10 for each in SHOP.tables}


@pytest.mark.parametrize(
    ("question", "tables"),
    [
        ("Which product is the most expensive?", {"products"}),
        ("Who lives in Berlin?", {"customers"}),
        ("List the logged payloads", {"audit"}),
        # customers and products join through the two tables between
        ("Which customers bought which products?", {"customers", "orders", "order_items", "products"}),
    ],
)
def test_the_tables_of_a_question(question, tables):
    chosen = {each.name for each in choose_tables(question, SHOP, SIZES, 10 * len(tables)).tables}
    assert chosen == tables


@given(st.text(max_size=60), st.integers(0, 60))
def test_a_part_of_the_schema_within_the_budget(question, budget):
    part = choose_tables(question, SHOP, SIZES, budget)
    names = [each.name for each in part.tables]
    assert 1 <= len(names) <= max(1, budget // 10)
    assert names == [each.name for each in SHOP.tables if each.name in names]
    assert all(key.referred_table in names for each in part.tables for key in each.foreign_keys)
    assert all(0 < probable < 1 for probable in probabilities(question, SHOP).values())
    assert all(len(values) == len(WEIGHTS) for values in evidence(question, SHOP).values())


def test_what_is_improbable_is_left_out_of_a_large_budget():
    chosen = choose_tables("Which product is the most expensive?", SHOP, SIZES, 1000)
    assert "products" in {each.name for each in chosen.tables}
    assert "audit" not in {each.name for each in chosen.tables}
    assert choose_tables("Wie viele?", SHOP, SIZES, 1000) == SHOP  # nothing tells the tables apart


@pytest.mark.parametrize(
    ("question", "table"),
    [("All movies?", "movie"), ("Who is enrolled?", "enrollment"), ("Name of the directors", "director")],
)
def test_words_meet_without_their_endings(question, table):
    schema = Schema("s", tuple(Table(name, name, (Column("id", "id", "integer"),)) for name in ("x", table, "y")))
    assert [each.name for each in choose_tables(question, schema, dict.fromkeys(("x", table, "y"), 1), 1).tables] == [
        table
    ]
