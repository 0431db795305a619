"""The dialect's rules: each case has the text that the table says, and the same result on both engines."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conversion.dialect_cases import CASES
from tests.postgres.shop import SCRIPT
from text2sql.conversion.databases import describe, open_source
from text2sql.conversion.dialect import RULES, RULES_FOR_FIRST_ROWS, Rejected, convert_tree
from text2sql.conversion.examination import convert_script


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    return path


@pytest.fixture(scope="module")
def schema(shop):
    with open_source(shop) as source:
        return describe(source, "shop")


def run(path, queries):
    return dict(convert_script(path, ";\n".join([*queries, ""]), 10)[1])


@pytest.fixture(scope="module")
def outcomes(shop):
    return run(shop, [sqlite for cases in CASES.values() for sqlite, _ in cases])


@pytest.mark.parametrize("rule", CASES)
def test_cases_of_a_rule(rule, outcomes):
    for sqlite, postgres in CASES[rule]:
        assert (outcomes[sqlite].postgres, outcomes[sqlite].status) == (postgres, "verified"), outcomes[sqlite].reason


@pytest.mark.parametrize("rule", RULES_FOR_FIRST_ROWS, ids=lambda rule: rule.__name__)
def test_every_rule_says_why_and_does_something(rule, schema):
    """Without it at least one of its cases comes out differently, or not at all."""
    assert rule.__doc__
    others = [r for r in RULES_FOR_FIRST_ROWS if r is not rule]

    def text(sqlite, rules):
        try:
            return convert_tree(sqlite, schema, rules).sql
        except Rejected as error:
            return f"rejected: {error}"

    cases = CASES[rule.__name__]
    assert any(text(sqlite, RULES_FOR_FIRST_ROWS) != text(sqlite, others) for sqlite, _ in cases)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT json_extract(note, '$.a') FROM \"order\"", "function json_extract"),
        ("SELECT sqlite_version()", "function"),
        ("SELECT random() FROM customer", "random"),
        ("SELECT name FROM customer ORDER BY random() LIMIT 1", "random"),
        ("SELECT rowid FROM item", "rowid"),
        ("SELECT name FROM sqlite_master", "no such table: sqlite_master"),
        ("SELECT name FROM customer WHERE name MATCH 'a'", "Match"),
        ("SELECT nothing FROM customer", "no such column: nothing"),
        ("SELECT id FROM customer, product", "ambiguous"),
        ("SELECT strftime('%W', joined) FROM customer", "%W"),
        ("SELECT strftime(name, joined) FROM customer", "format that is computed"),
        ("SELECT date(name) FROM customer", "not known to be a date"),
        ("SELECT date(joined, 'weekday 1') FROM customer", "modifier weekday 1"),
        ("SELECT substr(name, id - 3) FROM customer", "may be negative"),
        ("SELECT printf('%x', id) FROM customer", "printf"),
        ("SELECT name COLLATE RTRIM FROM customer", "collation RTRIM"),
        ("SELECT id FROM customer INTERSECT SELECT name FROM product", "different types"),
        ("SELECT name FROM customer ORDER BY name; SELECT 1", "2 statements"),
        ("", "no statements"),
        ("CREATE TABLE t (a)", "not a query"),
        ("DELETE FROM customer", "not a query"),
        ("SELEC name FRM customer", "not a query|syntax error"),
        ("SELECT name FROM customer WHERE", "syntax error"),
        ("SELECT " + "1 + " * 100_000 + "1", "400,008 characters"),
        ("SELECT json_array(id) FROM customer", "function json_array"),
        ("SELECT substr(name) FROM customer", "substr"),
        ("SELECT total() FROM customer", "total"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "nested|syntax"),
    ],
)
def test_what_is_not_known_is_rejected_with_a_reason(query, reason, schema):
    with pytest.raises(Rejected, match=reason):
        convert_tree(query, schema)


TIES = [
    # the query, and what it leaves open
    ("SELECT name FROM customer WHERE age = 34 LIMIT 1", "LIMIT without ORDER BY"),
    ("SELECT group_concat(DISTINCT city) FROM customer", "the order in a list"),
    ("SELECT DISTINCT city FROM customer ORDER BY name DESC LIMIT 2", "DISTINCT rows"),
]


def test_what_a_query_leaves_open_is_proven_to_be_that(shop):
    outcomes = run(shop, [query for query, _ in TIES])
    for query, reason in TIES:
        assert outcomes[query].status == "verified" or reason in outcomes[query].reason, (query, outcomes[query])


WRONG = [
    # conversions that would be accepted if the engines' results were not compared
    ("SELECT date(joined, '+1 month') FROM customer", "different result"),
    ("SELECT printf('%-6s|', name) FROM customer", "different result"),
]


def test_a_different_result_is_never_verified(shop):
    outcomes = run(shop, [query for query, _ in WRONG])
    for query, reason in WRONG:
        assert outcomes[query].status == "rejected"
        assert reason in outcomes[query].reason


COLUMNS = ["c.age", "c.zip", "c.vip", "c.joined", "c.city", "c.score", "r.v", "r.n", "r.t", "c.age + 1", "'5'"]
VALUES = ["5", "2.5", "'5'", "'abc'", "'-3'", "'2020-01-31'", "NULL", "c.age", "c.zip", "r.v"]


def test_any_comparison_is_right_or_rejected_before_it_runs(shop):
    """Affinity is the rule most easily got wrong: whatever is compared with whatever, no result may differ."""
    conditions = [f"{column} = {value}" for column in COLUMNS for value in VALUES]
    # The other operators take turns: each meets every column, and every value.
    others = ["{} < {}", "{} IS NOT {}", "{} BETWEEN {} AND 40", "{} IN ({}, 34)"]
    conditions += [
        others[(i + j) % 4].format(column, value) for i, column in enumerate(COLUMNS) for j, value in enumerate(VALUES)
    ]
    queries = [f"SELECT c.id, r.id FROM customer AS c, reading AS r WHERE {condition}" for condition in conditions]
    outcomes = run(shop, queries)
    wrong = [(q, o) for q, o in outcomes.items() if o.status == "rejected" and o.postgres is not None]
    wrong += [(q, o) for q, o in outcomes.items() if "different" in o.generated]
    assert wrong == []
    assert sum(outcome.postgres is not None for outcome in outcomes.values()) > 0.8 * len(outcomes)


def test_rules_are_all_there():
    assert {rule.__name__ for rule in RULES_FOR_FIRST_ROWS} == set(CASES)
    assert RULES_FOR_FIRST_ROWS[: len(RULES)] == tuple(RULES)
