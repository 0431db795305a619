"""Knowing when not to answer: the probability that a prediction is right, out of how likely the model found it.

The model's own probability of an answer ranks right answers above wrong ones, and is no probability of being right: it
is of the text, and falls with its length. So a logistic regression on the log probability of the whole answer and of
its mean token (Platt scaling, 1999) is fitted to the validation questions, whose answers were executed. What it says of
the test questions is measured there:

- AUROC: how often a right answer has a higher confidence than a wrong one (0.5: chance, 1: always);
- expected calibration error (Naeini et al., 2015): how far confidence and accuracy are apart, over ten bins;
- risk against coverage (El-Yaniv and Wiener, 2010): the share of wrong answers among the most confident ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 10
#: shares of the questions answered, for which the report states the error
COVERAGES = (0.25, 0.5, 0.75, 1.0)
#: fewer answers, or only right or only wrong ones, say nothing of what to expect
FEWEST = 20
#: of the squared weights (features have unit variance): separable data must not lead to infinite ones
RIDGE = 0.1
STEPS = 50
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The fitted regression: log odds = `intercept` + `total` * log probability + `mean` * log probability / tokens."""

    intercept: float
    total: float
    mean: float

    def confidence(self, log_probability: float, tokens: int) -> float:
        """The probability (0 to 1) that an answer of so many tokens, its end included, is right.

        >>> Calibration(2.0, 0.5, 0.0).confidence(-4.0, 20)
        0.5
        """
        odds = self.intercept + self.total * log_probability + self.mean * log_probability / max(tokens, 1)
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, odds))))


def _features(rows: Sequence[Row]) -> np.ndarray:
    """Log probability of the answer and of its mean token: (rows, 2)."""
    return np.array([[row["log_probability"], row["log_probability"] / max(row["tokens"], 1)] for row in rows], float)


def fit_calibration(rows: Sequence[Row]) -> Calibration | None:
    """The calibration for judged rows with `log_probability` and `tokens`; None if they are too few or all alike.

    Platt's targets: (n + 1) / (n + 2) for n right answers. No weight is negative, as a likelier answer is not a less
    certain one: a feature that would have such a weight is left out.
    """
    right = np.array([bool(row["verdict_suite"]) for row in rows])
    if len(rows) < FEWEST or right.all() or not right.any():
        return None
    features = _features(rows)
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    used = [0, 1]
    intercept, slopes = _regression(features, targets)
    while used and slopes.min() < 0:
        used.pop(int(slopes.argmin()))
        intercept, slopes = _regression(features[:, used], targets)
    weights = np.zeros(features.shape[1])
    weights[used] = slopes
    return Calibration(intercept, *weights.tolist())


def _regression(features: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Intercept and weights of a logistic regression: Newton's method on the ridge-penalised likelihood.

    Args:
        features: (rows, features); targets: (rows), from 0 to 1.
    """
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    inputs = np.column_stack([np.ones(len(features)), (features - centre) / scale])
    penalty = RIDGE * np.diag([0.0, *np.ones(features.shape[1])])
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-np.clip(inputs @ weights, -500, 500)))
        slope = inputs.T @ (targets - expected) - penalty @ weights
        curvature = (inputs * (expected * (1 - expected))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0] - (weights[1:] * centre / scale).sum()), weights[1:] / scale


def auroc(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """The area under the ROC curve by ranks (Mann and Whitney, 1947), ties as half; None if all are right or wrong.

    >>> auroc([0.9, 0.8, 0.3], [True, False, False]), auroc([0.5, 0.5], [True, False]), auroc([0.5], [True])
    (1.0, 0.5, None)
    """
    values, truth = np.asarray(confidences), np.asarray(right, bool)
    if truth.all() or not truth.any():
        return None
    higher = (values[truth][:, None] > values[~truth]).mean()
    equal = (values[truth][:, None] == values[~truth]).mean()
    return float(higher + equal / 2)


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """The answers in `BINS` bins of equal width: `n`, mean `confidence` and `accuracy`, without empty bins."""
    places = [min(int(value * BINS), BINS - 1) for value in confidences]
    rows = []
    for place in sorted(set(places)):
        members = [i for i, other in enumerate(places) if other == place]
        mean = [sum(source[i] for i in members) / len(members) for source in (confidences, right)]
        rows.append({"n": len(members), "confidence": mean[0], "accuracy": mean[1]})
    return rows


def expected_calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """The mean distance of confidence and accuracy over the answers of `reliability`.

    >>> expected_calibration_error(reliability([0.95, 0.95, 0.15, 0.15], [True, False, False, False]))
    0.3
    """
    n = sum(row["n"] for row in bins)
    return round(sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / n, 6)


def risk_coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, float]]:
    """(coverage, share of wrong answers, least confidence) when the most confident answers are given, for each number
    of them. Answers of equal confidence are given together.

    >>> risk_coverage([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    [(0.25, 0.0, 0.9), (0.75, 0.333333, 0.8), (1.0, 0.5, 0.1)]
    """
    ordered = sorted(zip(confidences, right, strict=True), key=lambda pair: -pair[0])
    points, wrong = [], 0
    for i, (confidence, correct) in enumerate(ordered, start=1):
        wrong += not correct
        if i == len(ordered) or ordered[i][0] != confidence:
            points.append((round(i / len(ordered), 6), round(wrong / i, 6), confidence))
    return points


def confidence_figures(rows: Sequence[Row], calibration: Calibration) -> dict[str, Any]:
    """What a calibration says of judged rows, each of which has `confidence`: the part `confidence` of score.json."""
    confidences = [row["confidence"] for row in rows]
    right = [bool(row["verdict_suite"]) for row in rows]
    bins, curve = reliability(confidences, right), risk_coverage(confidences, right)
    area = auroc(confidences, right)
    return {
        "auroc": None if area is None else round(area, 6),
        "expected_calibration_error": expected_calibration_error(bins),
        "error_at_coverage": {f"{c:.0%}": next(risk for share, risk, _ in curve if share >= c) for c in COVERAGES},
        "reliability": [{key: round(value, 6) for key, value in row.items()} for row in bins],
        "calibration": dataclasses.asdict(calibration),
    }


def risk_csv(rows: Sequence[Row]) -> str:
    """Risk against coverage of judged rows with `confidence`, for `dvc plots show`."""
    curve = risk_coverage([row["confidence"] for row in rows], [bool(row["verdict_suite"]) for row in rows])
    lines = [f"{coverage},{risk},{least:.6f}" for coverage, risk, least in curve]
    return "\n".join(["coverage,error,confidence", *lines, ""])
