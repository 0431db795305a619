"""Confidence: figures against their definitions, and a calibration that finds the odds that made the data."""

import math
import random

import pytest

from text2sql.scoring.confidence import Calibration, confidence_figures, fit_calibration, risk_coverage


def draw(n, calibration, seed=0):
    """Judged answers whose odds of being right are those of `calibration`."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        tokens = chance.randint(5, 60)
        row = {"tokens": tokens, "log_probability": -tokens * chance.expovariate(10)}
        truth = calibration.confidence(row["log_probability"], tokens)
        rows.append({**row, "confidence": truth, "verdict_suite": chance.random() < truth})
    return rows


def test_the_fit_finds_the_odds_that_made_the_data():
    truth = Calibration(2.0, 0.3, 8.0)
    fitted = fit_calibration(draw(5000, truth))
    for row in draw(200, truth, seed=1):
        assert math.isclose(fitted.confidence(row["log_probability"], row["tokens"]), row["confidence"], abs_tol=0.05)


def test_right_odds_are_calibrated_and_rank():
    rows = draw(5000, Calibration(2.0, 0.3, 8.0))
    figures = confidence_figures(rows, Calibration(2.0, 0.3, 8.0))
    assert figures["expected_calibration_error"] < 0.03
    assert figures["auroc"] > 0.6
    errors = list(figures["error_at_coverage"].values())
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(sum(not row["verdict_suite"] for row in rows) / len(rows), abs=1e-6)


@pytest.mark.parametrize(
    "truth", [Calibration(1.0, -0.3, 9.0), Calibration(1.0, 0.3, -9.0), Calibration(1.0, -0.1, -9.0)]
)
def test_a_likelier_answer_is_never_a_less_certain_one(truth):
    fitted = fit_calibration(draw(300, truth))
    assert min(fitted.total, fitted.mean) >= 0
    assert math.isfinite(fitted.intercept)


@pytest.mark.parametrize("right", [[True] * 50, [False] * 50, [True, False] * 9])
def test_no_calibration_from_too_few_answers_or_from_one_kind(right):
    assert fit_calibration([{"log_probability": -1.0, "tokens": 5, "verdict_suite": value} for value in right]) is None


def test_answers_that_are_told_apart_completely_give_finite_weights():
    rows = [{"log_probability": -1.0 - 9 * (i % 2), "tokens": 10, "verdict_suite": i % 2 == 0} for i in range(40)]
    fitted = fit_calibration(rows)
    assert fitted.confidence(-1.0, 10) > 0.9 > 0.1 > fitted.confidence(-10.0, 10)


def test_answers_that_look_alike_have_the_share_of_right_ones():
    fitted = fit_calibration([{"log_probability": -1.0, "tokens": 5, "verdict_suite": i % 4 > 0} for i in range(100)])
    assert fitted.confidence(-1.0, 5) == pytest.approx(0.75, abs=0.02)


def test_equal_confidences_are_answered_together():
    assert risk_coverage([0.5] * 4, [True, False, False, True]) == [(1.0, 0.5, 0.5)]
