"""Figures against hand-computed values, Wilson against its definition."""

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.scoring import confidence, figures, judge, report, versus
from text2sql.scoring.figures import features, wilson


def row(
    number,
    suite,
    strict=None,
    error=None,
    reason=None,
    hardness="easy",
    gold="SELECT a FROM t",
    db_id="d",
    gives="rows",
):
    return {
        "gold_result": gives,
        "id": f"q-{number}",
        "db_id": db_id,
        "gold": gold,
        "hardness": hardness,
        "verdict_suite": suite,
        "verdict_strict": suite if strict is None else strict,
        "reason": reason,
        "error": error,
    }


def test_figures():
    found = figures.score_figures(
        [
            row(0, True),
            row(1, True, strict=False, reason="row_values", hardness="hard", db_id="e"),
            row(2, False, reason="row_count", gives="nothing", gold="SELECT count(*) FROM t JOIN u ON t.i = u.i"),
            row(3, False, error="unknown_column", reason="prediction_failed"),
            row(4, None, reason="gold_failed"),
        ]
    )
    assert (found["n"], found["excluded"]) == (4, 1)
    assert (found["execution_accuracy"], found["execution_accuracy_strict"], found["valid_sql"]) == (0.5, 0.25, 0.75)
    assert found["ci95"] == [0.150039, 0.849961]
    assert {name: group["n"] for name, group in found["by_hardness"].items()} == {"easy": 3, "hard": 1}
    assert {name: group["n"] for name, group in found["by_feature"].items()} == {"join": 1, "aggregate": 1, "plain": 3}
    assert {name: group["n"] for name, group in found["by_gold_result"].items()} == {"rows": 3, "nothing": 1}
    assert found["by_database"]["d"]["execution_accuracy"] == round(1 / 3, 6)
    assert found["errors"] == {"row_count": 1, "unknown_column": 1}


def test_no_question_at_all():
    found = figures.score_figures([row(0, None, reason="gold_failed")])
    assert (found["n"], found["excluded"], found["execution_accuracy"], found["ci95"]) == (0, 1, 0.0, [0.0, 1.0])


@given(st.integers(1, 5000), st.data())
def test_wilson_solves_its_equation(n, data):
    """Its bounds are the p for which |share - p| is 1.96 standard errors of p."""
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    for bound in (low, high):
        distance = abs(successes / n - bound)
        assert math.isclose(distance, figures.Z95 * math.sqrt(bound * (1 - bound) / n), abs_tol=1e-9)


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT a FROM t", ["plain"]),
        ("SELECT a FROM t, u", ["join"]),
        ("SELECT a, count(*) FROM t GROUP BY a ORDER BY 2", ["group", "order", "aggregate"]),
        ("SELECT a FROM t WHERE b IN (1, 2)", ["plain"]),
        ("SELECT a FROM t WHERE b IN (SELECT c FROM u)", ["nesting"]),
        ("SELECT a FROM (SELECT DISTINCT a FROM t) AS x", ["nesting", "distinct"]),
        ("SELECT a FROM t UNION SELECT a FROM u", ["set operation"]),
        ("SELECT FROM WHERE", ["unknown"]),
    ],
)
def test_features(sql, found):
    assert features(sql) == found


@pytest.mark.parametrize("module", [figures, judge, report, versus, confidence])
def test_the_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
