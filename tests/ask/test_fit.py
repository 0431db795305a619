"""What a model wrote beside what the server gets."""

import doctest

import pytest

from text2sql.ask import fit
from text2sql.ask.fit import Target, fit_query, with_shown_names
from text2sql.schema import Column, Schema, Table

SCHEMA = Schema(
    "s",
    (
        Table("visits", "visits", (Column("at", "at", "timestamptz"), Column("day", "day", "date"))),
        Table("hr_person", "person", (Column("id", "id", "integer"),)),
    ),
)
OLD = Target(150004)
NAMES = Target(relations={"hr_person": ("hr", "person"), "orders": ("sales", "orders")})
CASES = [
    (OLD, "select any_value(at) from (select * from visits)",
     "SELECT (ARRAY_AGG(at) FILTER(WHERE NOT at IS NULL))[1] FROM (SELECT * FROM visits) AS subquery_1"),
    (OLD, "select any_value(distinct day) filter (where at is null or day > now()) from visits",
     "SELECT (ARRAY_AGG(DISTINCT day) FILTER(WHERE (at IS NULL OR day > CURRENT_TIMESTAMP) AND NOT day IS NULL))[1] "
     "FROM visits"),
    (OLD, "select * from (values (1)), lateral (select 2)",
     "SELECT * FROM (VALUES (1)) AS subquery_1, LATERAL (SELECT 2) AS subquery_2"),
    (OLD, "select round(extract(epoch from at), 2) from visits", None),
    (Target(130000), "select round(extract(epoch from at), 2) from visits",
     "SELECT ROUND(CAST(EXTRACT(EPOCH FROM at) AS DECIMAL), 2) FROM visits"),
    (Target(160000), "select any_value(at) from (select * from visits)", None),
    (NAMES, "select hr_person.id from hr_person join Orders on true",
     "SELECT hr_person.id FROM hr.person AS hr_person JOIN sales.orders ON TRUE"),
    (NAMES, "with orders as (select 1) select * from orders", None),
    (OLD, "select 1 from visits v where not v.at between '2024-01-01' and date '2024-12-31'",
     "SELECT 1 FROM visits AS v WHERE NOT (v.at >= '2024-01-01' AND v.at < '2025-01-01')"),
    (OLD, "select 1 from visits where day between '2024-01-01' and '2024-12-31'", None),
    (OLD, "select 1 from visits where at between '2024-01-01' and '2024-12-31 10:00'", None),
    (OLD, "I am sorry", None),
]  # fmt: skip


@pytest.mark.parametrize(("target", "written", "expected"), CASES)
def test_fit(target, written, expected):
    fitted, notes = fit_query(written, SCHEMA, target)
    assert fitted == (expected or written)
    assert bool(notes) == (expected is not None and " < " in expected)


def test_names_are_taken_back_for_a_copy():
    fitted, _ = fit_query("select hr_person.id from hr_person", SCHEMA, NAMES)
    assert with_shown_names(fitted, NAMES.relations) == "SELECT hr_person.id FROM hr_person AS hr_person"


def test_no_day_follows_the_last_one():
    """9999-12-31, an open end."""
    visits = Schema("s", (Table("visits", "visits", (Column("at", "at", "timestamp"),)),))
    sql = "SELECT 1 FROM visits WHERE at BETWEEN '2024-01-01' AND '9999-12-31'"
    assert fit_query(sql, visits, Target()) == (sql, [])


def test_doctest():
    assert doctest.testmod(fit).failed == 0
