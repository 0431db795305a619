"""What a query leaves open: the results that it might as well give, and those that it might not."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from text2sql.conversion.engines import run_postgres
from text2sql.postgres.alternatives import explanation, is_open
from text2sql.postgres.sandbox import Sandbox
from text2sql.postgres.server import server

SCRIPT = """
CREATE TABLE t (id int, name text, age int, city text);
INSERT INTO t VALUES (1, 'a', 30, 'x'), (2, 'b', 30, 'y'), (3, 'c', 20, 'x'), (4, 'd', 30, 'y'), (5, 'd', 40, 'y');
"""
YOUNGEST = "SELECT name FROM t ORDER BY age LIMIT 2"
CITIES = "SELECT city, any_value(name) FROM t GROUP BY city ORDER BY city"
OLDEST = "SELECT city, (array_agg(name ORDER BY age DESC))[1] FROM t WHERE id < 5 GROUP BY city ORDER BY city"
AVERAGES = """SELECT city, any_value(age / 2.0 + 0.5), any_value('2020-01-01'::timestamp + (id - 1) * interval '1 day')
    FROM t WHERE id < 4 GROUP BY city ORDER BY city"""
CASES = [
    # query, a result, whether it might give that, whether it might give other rows than it does
    (YOUNGEST, [("c",), ("b",)], True, True),
    (YOUNGEST, [("b",), ("c",)], False, True),
    (YOUNGEST, [("c",)], False, True),
    (YOUNGEST, [("c",), ("x",)], False, True),
    ("SELECT age FROM t ORDER BY age LIMIT 2", [(20,), (30,)], True, False),  # equal rows tie
    ("SELECT name FROM t ORDER BY age LIMIT 2 OFFSET 1", [("d",), ("a",)], True, True),
    ("SELECT name FROM t ORDER BY age", [("c",), ("d",), ("b",), ("a",), ("d",)], True, False),
    ("SELECT name FROM t ORDER BY age", [("c",), ("d",), ("d",), ("b",), ("a",)], False, False),
    ("SELECT name FROM t ORDER BY 1 LIMIT 1", [("a",)], True, False),
    ("SELECT age AS name FROM t ORDER BY name LIMIT 1", [(20,)], True, False),  # a name of the result comes first
    ("SELECT name FROM t LIMIT 2", [("d",), ("d",)], True, True),
    ("SELECT * FROM t ORDER BY age DESC LIMIT 2", [(5, "d", 40, "y"), (4, "d", 30, "y")], True, True),
    ("SELECT * FROM t ORDER BY 3 LIMIT 2", [(3, "c", 20, "x"), (4, "d", 30, "y")], True, True),
    ("SELECT *, age AS a FROM t ORDER BY 5, id LIMIT 2", [(3, "c", 20, "x", 20), (4, "d", 30, "y", 30)], False, False),
    ("SELECT DISTINCT city, age FROM t ORDER BY age LIMIT 2", [("x", 20), ("y", 30)], True, True),
    ("SELECT city FROM t UNION SELECT name FROM t ORDER BY city LIMIT 1", [("a",)], True, False),
    (CITIES, [("x", "c"), ("y", "d")], True, True),
    (CITIES, [("x", "d"), ("y", "d")], False, True),
    (OLDEST, [("x", "a"), ("y", "d")], True, True),
    (OLDEST, [("x", "c"), ("y", "d")], False, True),
    (
        AVERAGES,
        [("x", Decimal("10.5"), "2020-01-03 00:00:00"), ("y", Decimal("15.5"), "2020-01-02 00:00:00")],
        True,
        True,
    ),
    (
        AVERAGES,
        [("x", Decimal("10.5"), "2020-01-01 00:00:00"), ("y", Decimal("15.5"), "2020-01-02 00:00:00")],
        False,
        True,
    ),
    ("SELECT (array_agg(name ORDER BY id))[1] FROM t", [("a",)], True, False),
    ("SELECT (array_agg(name ORDER BY id))[2] FROM t", [("a",)], False, False),
    ("SELECT any_value(name || ', \"' || city) FROM t", [('d, "y',)], True, True),
    ("SELECT any_value(name) FROM t", [("{",)], False, True),
    ("SELECT string_agg(name, ',') FROM t WHERE age = 30", [("d,a,b",)], True, True),
    ("SELECT string_agg(name, ',' ORDER BY id) FROM t WHERE age = 30", [("d,a,b",)], False, False),
    ("SELECT city FROM t WHERE name = (SELECT name FROM t ORDER BY city DESC LIMIT 1)", [("y",), ("y",)], True, True),
    ("SELECT max(age) FROM (SELECT age FROM t ORDER BY city LIMIT 1) AS one", [(20,)], True, True),
    ("SELECT name FROM t LIMIT 1 + 1", [("d",), ("d",)], False, False),  # how many is not known before it runs
    ("SELECT count(*) FROM t", [(4,)], False, False),
    ("SELECT FROM WHERE", [], False, False),
]


@pytest.fixture(scope="module", params=["conversion", "score"])
def execute(request):
    """As conversion executes, whose arrays are lists, and as the score does, whose arrays are texts."""
    with (
        server() as running,
        psycopg.connect(running.dsn(), autocommit=True) as connection,
        Sandbox(running) as sandbox,
    ):
        connection.execute(SCRIPT)
        yield {
            "conversion": lambda sql: run_postgres(connection, sql),
            "score": lambda sql: sandbox.execute("postgres", sql),
        }[request.param]


@pytest.mark.parametrize(("sql", "rows", "possible", "is_cut"), CASES)
def test_what_a_query_leaves_open(execute, sql, rows, possible, is_cut):
    assert (explanation(sql, rows, execute) is not None, is_open(sql, execute)) == (possible, is_cut)
