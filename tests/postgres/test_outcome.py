"""What finds nothing, by its rows and by the tables that it reads."""

from decimal import Decimal

import pytest

from text2sql.postgres.compare import Result
from text2sql.postgres.outcome import finds_nothing


@pytest.mark.parametrize(
    ("rows", "nothing"),
    [
        ([], True),
        ([(None,), (0,)], True),
        ([(Decimal("0.00"), 0.0)], True),
        ([(0,), (1,)], False),
        ([("",)], False),
        ([(False,)], False),  # "no" is an answer
    ],
)
def test_by_its_rows(rows, nothing):
    found = Result(("a",), rows)
    assert finds_nothing(found, "SELECT 1", lambda sql: pytest.fail("no table to look at")) is nothing


def test_what_fails_is_something_else():
    assert not finds_nothing(Result(error="timeout"), "SELECT 1", lambda sql: Result())


@pytest.mark.parametrize(
    ("sql", "asked"),
    [
        ("SELECT a FROM t WHERE a = 1", "SELECT EXISTS (SELECT 1 FROM t)"),
        (
            'SELECT "T".a FROM "T" JOIN s.u AS x ON "T".a = x.a WHERE x.b IN (SELECT b FROM "T")',
            'SELECT EXISTS (SELECT 1 FROM "T") AND EXISTS (SELECT 1 FROM s.u)',
        ),
        ("WITH w AS (SELECT a FROM t) SELECT a FROM w WHERE a > 5", "SELECT EXISTS (SELECT 1 FROM t)"),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_tables_without_rows_say_nothing_of_the_query(sql, asked, filled):
    probes = []

    def execute(probe):
        probes.append(probe)
        return Result(("exists",), [(filled,)])

    assert finds_nothing(Result(("a",), []), sql, execute) is filled
    assert probes == [asked]
