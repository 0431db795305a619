"""Verdicts: tables of cases, and properties against a brute-force reading of the rules."""

import datetime
import itertools
import math
import random
import time
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from text2sql.postgres.compare import Result, has_order, is_ordered, strict, strip_distinct, suite

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

PLAIN = "SELECT a FROM t"
ORDERED = "SELECT a FROM t ORDER BY a"
NESTED = "SELECT a FROM t WHERE b IN (SELECT c FROM u ORDER BY d LIMIT 3)"


def result(rows, width=None):
    return Result(tuple(f"c{i}" for i in range(width or (len(rows[0]) if rows else 1))), rows)


def reasons(gold, predicted, sql=PLAIN):
    """(suite, strict) as reason codes, None for correct."""
    return suite(result(gold), result(predicted), sql).reason, strict(result(gold), result(predicted), sql).reason


CASES = [
    # gold, predicted, gold SQL, suite, strict
    ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], PLAIN, None, None),
    ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], ORDERED, "row_order", "row_order"),
    ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], NESTED, "row_order", None),
    ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], ORDERED, None, "row_values"),
    ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], PLAIN, None, "row_values"),
    ([(1, 2), (3, 4)], [(2, 1), (3, 4)], PLAIN, "row_values", "row_values"),  # no single order of columns
    ([(1, 1), (2, 2)], [(1, 2), (2, 1)], PLAIN, "row_values", "row_values"),
    ([(1,), (1,), (2,)], [(1,), (2,), (2,)], PLAIN, "row_values", "row_values"),
    ([(1,)], [(1,), (1,)], PLAIN, "row_count", "row_count"),
    ([(1, 2)], [(1,)], PLAIN, "column_count", "column_count"),
    ([(None, 1)], [(1, None)], PLAIN, None, "row_values"),
    ([(None,)], [(0,)], PLAIN, "row_values", "row_values"),
    ([(None,)], [("",)], PLAIN, "row_values", "row_values"),
    ([("a",)], [("A",)], PLAIN, "row_values", "row_values"),
    ([("1",)], [(1,)], PLAIN, "row_values", "row_values"),
    ([(1,)], [(Decimal("1.000"),)], PLAIN, None, None),
    ([(1, 0)], [(True, False)], PLAIN, None, None),
    ([(Decimal("3.3333333333333333"),)], [(10 / 3,)], PLAIN, None, None),
    ([(Decimal("0.1"),)], [(0.1,)], PLAIN, None, None),
    ([(1.0,)], [(1.0 + 0.9e-6,)], PLAIN, None, None),
    ([(1.0,)], [(1.0 + 1.1e-6,)], PLAIN, "row_values", "row_values"),
    ([(10_000_000.0,)], [(10_000_005.0,)], PLAIN, None, None),
    ([(10_000_000,)], [(10_000_001,)], PLAIN, "row_values", "row_values"),  # keys are not measurements
    ([(10_000_000,), (5,)], [(10_000_001.0,), (5,)], PLAIN, None, None),
    ([(10_000_000,), (10_000_001,)], [(10_000_000,), (10_000_000.0,)], PLAIN, None, None),
    ([(0.0,)], [(-0.0,)], PLAIN, None, None),
    ([(0.0,)], [(1e-16,)], PLAIN, None, None),
    ([(0.0,)], [(1e-9,)], PLAIN, "row_values", "row_values"),
    ([(math.nan,)], [(Decimal("NaN"),)], PLAIN, None, None),
    ([(math.inf,)], [(-math.inf,)], PLAIN, "row_values", "row_values"),
    ([(10**400,)], [(1.5,)], PLAIN, "row_values", "row_values"),
    ([(datetime.date(2020, 1, 2),)], [("2020-01-02",)], PLAIN, None, None),
    ([([1, 2],)], [([1.0, 2.0],)], PLAIN, None, None),
    ([(b"x",)], [(memoryview(b"x"),)], PLAIN, None, None),
    ([({"a": 1, "b": 2},)], [({"b": 2, "a": 1},)], PLAIN, None, None),
    # Values a, b, c with a ~ b ~ c and a, c apart: equal only if a pairing exists, wherever the rows stand.
    ([(1.0,), (1.0 + 8e-7,), (1.0 + 16e-7,)], [(1.0,), (1.0,), (1.0,)], PLAIN, "row_values", "row_values"),
    ([(1.0,), (1.0 + 8e-7,)], [(1.0 + 16e-7,), (1.0 + 8e-7,)], PLAIN, None, None),
    # The same in two columns, where no sorting of the rows finds the pairing.
    ([(1.0, 2.0 + 3e-6), (1.0 + 8e-7, 2.0)], [(1.0 + 8e-7, 2.0 + 3e-6), (1.0 + 1e-9, 2.0)], PLAIN, None, None),
]


@pytest.mark.parametrize(("gold", "predicted", "sql", "suite_reason", "strict_reason"), CASES)
def test_verdicts(gold, predicted, sql, suite_reason, strict_reason):
    assert reasons(gold, predicted, sql) == (suite_reason, strict_reason)


def test_empty_results():
    assert suite(result([], 2), result([], 3), PLAIN).correct  # as the public evaluation has it
    assert strict(result([], 2), result([], 3), PLAIN).reason == "column_count"
    assert strict(result([], 2), result([], 2), ORDERED).correct
    assert suite(result([]), result([(1,)]), PLAIN).reason == "row_count"


def test_column_names_do_not_count():
    for verdict in (suite, strict):
        assert verdict(Result(("a",), [(1,)]), Result(("b",), [(1,)]), PLAIN).correct
        assert verdict(Result(rows=[(1,)]), Result(rows=[(2,)]), PLAIN).reason == "row_values"
        assert verdict(Result(rows=[(1,)]), Result(rows=[(1, 1)]), PLAIN).reason == "column_count"


@pytest.mark.parametrize(
    ("error", "reason"),
    [("timeout", "timeout"), ("too_many_rows", "too_many_rows"), ("unknown_column", "prediction_failed")],
)
def test_failures(error, reason):
    failed = Result(error=error)
    for verdict in (suite, strict):
        assert verdict(result([(1,)]), failed, PLAIN).reason == reason
        assert verdict(failed, result([(1,)]), PLAIN).reason == "gold_failed"
        assert verdict(failed, failed, PLAIN).reason == "gold_failed"


@pytest.mark.parametrize(
    ("sql", "anywhere", "outermost"),
    [
        ("SELECT a FROM t", False, False),
        ("SELECT 'order by' FROM t", False, False),
        ("SELECT a FROM t ORDER BY a", True, True),
        ("(SELECT a FROM t ORDER BY a)", True, True),
        ("(SELECT a FROM t) ORDER BY a", True, True),
        ("(SELECT a FROM t) UNION SELECT b FROM u ORDER BY 1", True, True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 1) AS x", True, False),
        ("WITH x AS (SELECT a FROM t ORDER BY a) SELECT * FROM x", True, False),
        ("SELECT FROM WHERE ORDER BY (", False, False),  # not for sqlglot to read
        ("SELECT rank() OVER (ORDER BY a), string_agg(b, ',' ORDER BY b) FROM t", False, False),
    ],
)
def test_order(sql, anywhere, outermost):
    assert (has_order(sql), is_ordered(sql)) == (anywhere, outermost)


@pytest.mark.parametrize(
    ("sql", "stripped"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT  a FROM t"),
        ("select count(distinct a), 'distinct' from t", "select count( a), 'distinct' from t"),
        ("SELECT a FROM t UNION DISTINCT SELECT a FROM u", "SELECT a FROM t UNION  SELECT a FROM u"),
        ("SELECT a FROM t WHERE a IS NOT DISTINCT FROM b", "SELECT a FROM t WHERE a IS NOT DISTINCT FROM b"),
        ("SELECT DISTINCT ON (a) a, b FROM t", "SELECT DISTINCT ON (a) a, b FROM t"),
        ('SELECT "distinct" FROM t -- distinct', 'SELECT "distinct" FROM t -- distinct'),
        ("SELECT 'é', DISTINCT", "SELECT 'é', DISTINCT"),
        ("SELECT 'é' UNION SELECT DISTINCT 'ü'", "SELECT 'é' UNION SELECT  'ü'"),
        ("SELECT 'unfinished DISTINCT", "SELECT 'unfinished DISTINCT"),
        ("", ""),
    ],
)
def test_strip_distinct(sql, stripped):
    assert strip_distinct(sql) == stripped


# --- properties ----------------------------------------------------------------------------------------------------

values = st.one_of(
    st.none(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, Decimal("1.0"), Decimal("0.50"), "a", "b", "1", True])
)


@st.composite
def tables(draw, elements=values, max_rows=6, max_width=4):
    width = draw(st.integers(1, max_width))
    return draw(st.lists(st.tuples(*[elements] * width), min_size=1, max_size=max_rows))


@st.composite
def pairs(draw, elements, max_rows, max_width):
    """Two tables of one shape; the second is often the first in disorder, with one value changed or none."""
    width, height = draw(st.integers(1, max_width)), draw(st.integers(1, max_rows))
    shape = st.lists(st.tuples(*[elements] * width), min_size=height, max_size=height)
    gold = draw(shape)
    if draw(st.integers(0, 3)) == 0:
        return gold, draw(shape)
    columns = draw(st.permutations(range(width)))
    predicted = [[row[j] for j in columns] for row in draw(st.permutations(gold))]
    predicted[draw(st.integers(0, height - 1))][draw(st.integers(0, width - 1))] = draw(elements)
    return gold, [tuple(row) for row in predicted]


def close(a, b):
    """The rule for two values, written out once more."""
    if isinstance(a, int | float | Decimal) and isinstance(b, int | float | Decimal):
        exact = all(not isinstance(x, float) and x == int(x) for x in (a, b))
        return a == b or (not exact and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12))
    return type(a) is type(b) and a == b


def by_brute_force(gold, predicted, ordered):
    """All orders of the columns, all pairings of the rows."""
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    for columns in itertools.permutations(range(len(gold[0]))):
        rows = [tuple(row[j] for j in columns) for row in predicted]
        for pairing in [rows] if ordered else itertools.permutations(rows):
            if all(close(a, b) for x, y in zip(gold, pairing, strict=True) for a, b in zip(x, y, strict=True)):
                return True
    return False


@given(tables(), st.randoms(use_true_random=False))
def test_permuting_rows_and_columns_changes_nothing(gold, rng):
    columns = rng.sample(range(len(gold[0])), len(gold[0]))
    predicted = [tuple(row[j] for j in columns) for row in rng.sample(gold, len(gold))]
    assert suite(result(gold), result(predicted), PLAIN).correct
    assert strict(result(gold), result(rng.sample(gold, len(gold))), PLAIN).correct
    same_order = [tuple(row[j] for j in columns) for row in gold]
    assert suite(result(gold), result(same_order), ORDERED).correct


@given(pairs(values, max_rows=4, max_width=3), st.booleans())
def test_agrees_with_brute_force(tables, ordered):
    gold, predicted = tables
    verdict = suite(result(gold), result(predicted), ORDERED if ordered else PLAIN)
    assert verdict.correct == by_brute_force(gold, predicted, ordered)


near = st.sampled_from([1.0 + k * 4e-7 for k in range(6)] + [1, 2.0, 2])


@given(pairs(near, max_rows=5, max_width=2), st.booleans())
def test_agrees_with_brute_force_near_the_tolerance(tables, ordered):
    gold, predicted = tables
    verdict = suite(result(gold), result(predicted), ORDERED if ordered else PLAIN)
    assert verdict.correct == by_brute_force(gold, predicted, ordered)


@given(tables(), tables())
def test_symmetric_and_of_equal_meaning(one, other):
    for verdict in (suite, strict):
        forth, back = (verdict(result(a), result(b), PLAIN) for a, b in ((one, other), (other, one)))
        assert forth == back
        assert verdict(result(one), result(one), ORDERED).correct


@given(tables(), st.data())
def test_a_duplicate_more_is_another_bag(gold, data):
    more = [*gold, data.draw(st.sampled_from(gold))]
    assert suite(result(gold), result(more), PLAIN).reason == "row_count"
    row = data.draw(st.sampled_from(gold))
    if Counter(map(str, more)) != Counter(map(str, [*gold, row])) and not close(more[-1][0], row[0]):
        assume(len(row) == 1)
        assert suite(result(more), result([*gold, row]), PLAIN).reason == "row_values"


@given(st.floats(1e-3, 1e12), st.floats(-0.99e-6, 0.99e-6))
def test_floats_within_the_tolerance_are_equal_in_any_row(value, share):
    gold = [(value, "x"), (value * 3, "y"), (None, "z")]
    predicted = [(None, "z"), (value * 3 * (1 + share), "y"), (value * (1 + share), "x")]
    assert reasons(gold, predicted) == (None, None)
    assert reasons([(value,)], [(value * (1 + 2.1e-6),)])[0] == "row_values"


# --- size ----------------------------------------------------------------------------------------------------------


def seconds(work):
    """Of the processor, however busy the machine is."""
    started = time.process_time()
    work()
    return time.process_time() - started


def test_a_hundred_thousand_rows():
    rng = random.Random(0)
    gold = [(i, f"name {i % 500}", rng.random(), i % 7, rng.choice([None, "x", "y"])) for i in range(100_000)]
    shuffled = rng.sample(gold, len(gold))
    permuted = [(e, d, c * (1 + 1e-9), b, a) for a, b, c, d, e in shuffled]
    wrong = [*permuted[:-1], (*permuted[-1][:-1], -1)]
    assert suite(result(gold), result(shuffled), PLAIN).correct
    assert suite(result(gold), result(wrong), PLAIN).reason == "row_values"
    assert seconds(lambda: suite(result(gold), result(permuted), PLAIN).correct or pytest.fail("equal tables")) < 15


@pytest.mark.parametrize("width", [8, 24])
def test_many_columns_alike(width):
    """Columns that each hold the same values: 24! orders, and only what the rows say together decides."""
    rng = random.Random(width)
    gold = [tuple(rng.sample(range(width), width)) for _ in range(40)]
    columns = rng.sample(range(width), width)
    latin = [tuple((i + j) % width for j in range(width)) for i in range(width)]
    one_hot = [tuple(int(i == j) for j in range(width)) for i in range(width)]
    for table in (gold, latin, one_hot):
        permuted = [tuple(row[j] for j in columns) for row in table]
        assert suite(result(table), result(rng.sample(permuted, len(permuted))), PLAIN).correct
    swapped = [*latin[:-2], (latin[-1][0], *latin[-2][1:]), (latin[-2][0], *latin[-1][1:])]
    assert seconds(lambda: suite(result(latin), result(swapped), PLAIN)) < 5
    assert suite(result(latin), result(swapped), PLAIN).reason == "row_values"
