"""Texts nested too deeply for sqlglot, which is recursive: nothing that reads a model's SQL falls over them."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlglot.errors import ParseError

from text2sql.ask.engine import format_sql, query_warnings
from text2sql.ask.question import is_sql
from text2sql.ask.unknown import query_scopes, unknown_names
from text2sql.model.qualifiers import by_table
from text2sql.postgres.compare import has_order, is_ordered, strip_distinct
from text2sql.schema import Schema
from text2sql.scoring.figures import features
from text2sql.scoring.hardness import hardness
from text2sql.sql import parse, parse_one, table_names

EMPTY = Schema("empty", ())
DEPTHS = [20, 30, 40, 60, 300]
NESTED = {
    "parentheses": lambda depth: f"SELECT {'(' * depth}1{')' * depth}",
    "left open": lambda depth: f"SELECT {'(' * depth}1",
    "subqueries": lambda depth: "SELECT a FROM t WHERE b IN (" * depth + "SELECT 1" + ")" * depth,
    "NOT": lambda depth: f"SELECT a FROM t WHERE {'NOT ' * depth} b",
    "minus": lambda depth: f"SELECT {'- ' * depth} 1",
    "sums": lambda depth: f"SELECT 1{' + 1' * depth}",
    "conditions": lambda depth: f"SELECT a FROM t WHERE b{' AND b' * depth}",
    "functions": lambda depth: f"SELECT {'abs(' * depth}1{')' * depth}",
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED.keys())
def test_no_depth_is_too_much(nested, depth):
    sql = nested(depth)
    for read in (features, has_order, is_ordered, strip_distinct, is_sql):
        read(sql)
    format_sql(sql)
    query_warnings(sql, "?", EMPTY)
    unknown_names(query_scopes(sql), EMPTY)
    by_table(sql, EMPTY)


def test_threads_leave_the_logger_as_it_was():
    logger = logging.getLogger("sqlglot")
    before = logger.level
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [parse_one("SELECT 1") for _ in range(50)], range(40)))
    assert logger.level == before


def test_it_is_one_kind_of_error():
    deep = NESTED["parentheses"](1000)
    for read in (parse, parse_one, lambda sql: hardness(sql, "postgres")):
        with pytest.raises(ParseError, match="nested too deeply"):
            read(deep)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT * FROM Orders", {"orders"}),
        ('SELECT * FROM "Orders" o JOIN Items USING (id)', {"Orders", "items"}),
        ('SELECT * FROM Shop."Orders"', {"Orders"}),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM A) UNION SELECT 2 FROM b", {"a", "b"}),
        ("WITH C AS (SELECT 1) SELECT * FROM C, generate_series(1, 3)", {"c"}),
        ("SELECT 1", set()),
    ],
)
def test_names_of_tables_are_those_that_postgresql_reads(sql, names):
    assert table_names(parse_one(sql)) == names
