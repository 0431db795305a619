"""Stage score: the predictions executed on PostgreSQL beside their gold queries, and what came of it.

A text that looks like the gold query may be wrong and one that looks different right; only the results tell. What the
model wrote is untrusted and runs in the sandbox (text2sql/postgres/sandbox.py). A question whose gold query fails is
excluded and counted; a prediction that fails or hangs is wrong and costs its timeout.

    python -m stages.score
    python -m stages.score --against REV      # what the predictions here gained and lost; REV: experiment, tag, commit

The answers to the validation questions (data/predictions/val.jsonl) are executed too: out of them and their likelihood
comes the confidence of each answer, which is measured on the test questions (text2sql/scoring/confidence.py).

Reads data/predictions/, data/splits/ (hardness) and data/postgres/databases/. Writes metrics/score.json,
metrics/brief/score.json (what `dvc exp show` shows of it), metrics/plots/verdicts.csv (the verdicts, small enough for
git), metrics/plots/{accuracy,confidence}.csv, metrics/plots/report.html (to read) and data/predictions/verdicts.jsonl
(with both queries and the milliseconds).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt

from text2sql.config import Seconds, read_params, section
from text2sql.errors import UserError
from text2sql.files import write_json, write_jsonl, write_text
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.scoring.confidence import Calibration, confidence_figures, fit_calibration, risk_csv
from text2sql.scoring.figures import accuracy_csv, score_figures
from text2sql.scoring.predictions import judge_predictions, read_predictions
from text2sql.scoring.report import render_report
from text2sql.scoring.shuffled import judge_on_shuffled
from text2sql.scoring.versus import against, to_csv
from text2sql.stage import run
from text2sql.track import record
from text2sql.workspace import (
    BRIEF,
    DUMPS,
    PLOTS,
    PREDICTIONS,
    SCORE,
    SPLITS,
    VALIDATION_PREDICTIONS,
    VERDICTS,
    VERDICTS_CSV,
)

ACCURACY_CSV = PLOTS / "accuracy.csv"
CONFIDENCE_CSV = PLOTS / "confidence.csv"
REPORT = PLOTS / "report.html"


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """conf/score."""

    timeout_seconds: Seconds
    max_rows: Annotated[int, Gt(0)]
    workers: Annotated[int, Gt(0)]
    examples: Annotated[int, Ge(0)]

    def limits(self) -> Limits:
        return Limits(timeout_seconds=self.timeout_seconds, max_rows=self.max_rows)


def read_options(params: dict[str, Any]) -> ScoreOptions:
    """score."""
    return section(ScoreOptions, "score", params)


def calibrated(verdicts: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]) -> Calibration | None:
    """Give each verdict its `confidence` by what `validation` shows; None if the model's likelihoods are not known."""
    usable = [row for row in validation if row["verdict_suite"] is not None and row.get("log_probability") is not None]
    calibration = fit_calibration(usable)
    if calibration is None or not all("log_probability" in row for row in verdicts):
        return None
    for row in verdicts:
        likely, tokens = row["log_probability"], row["tokens"]  # None: the prompt was too long for the model
        row["confidence"] = 0.0 if likely is None else round(calibration.confidence(likely, tokens), 4)
    return calibration


def score_predictions(options: ScoreOptions) -> str:
    """Execute, compare, count, write, record."""
    rows = read_predictions(PREDICTIONS, SPLITS / "test.jsonl")
    validation = VALIDATION_PREDICTIONS.exists()
    known = read_predictions(VALIDATION_PREDICTIONS, SPLITS / "val.jsonl") if validation else []
    databases = sorted({row["db_id"] for row in rows + known})
    with loaded_sandbox(databases, DUMPS, options.limits(), options.workers) as sandbox:
        verdicts, previews = judge_predictions(sandbox, rows, options.workers)
        validation, _ = judge_predictions(sandbox, known, options.workers)
    judge_on_shuffled(verdicts, DUMPS, options.limits(), options.workers)
    score = score_figures(verdicts)
    if score["n"] == 0:
        raise UserError(f"none of {len(rows)} gold queries gave a result", f"see {PREDICTIONS}")
    scored = []
    if calibration := calibrated(verdicts, validation):
        scored = [row for row in verdicts if row["verdict_suite"] is not None]
        score["confidence"] = confidence_figures(scored, calibration)
    write_text(CONFIDENCE_CSV, risk_csv(scored))
    write_jsonl(VERDICTS, verdicts)
    write_text(VERDICTS_CSV, to_csv(verdicts))
    write_text(ACCURACY_CSV, accuracy_csv(score))
    write_text(REPORT, render_report(score, verdicts, previews, options.examples))
    write_json(SCORE, score)
    brief = {"accuracy": "execution_accuracy", "strict": "execution_accuracy_strict", "valid_sql": "valid_sql"}
    write_json(BRIEF / "score.json", {short: score[name] for short, name in brief.items()})
    record()
    low, high = score["ci95"]
    return (
        f"{score['execution_accuracy']:.1%} of {score['n']} correct (95 %: {low:.1%} to {high:.1%}), strict "
        f"{score['execution_accuracy_strict']:.1%}; {score['valid_sql']:.1%} valid SQL; {score['excluded']} excluded"
    )


def main(arguments: Sequence[str] = ()) -> str:
    parser = argparse.ArgumentParser(prog="python -m stages.score", description="score the predictions")
    parser.add_argument("--against", metavar="REV", help="compare the scored predictions with those of REV, then stop")
    parser.add_argument("--strict", action="store_true", help="with --against: by the strict verdict")
    chosen = parser.parse_args(arguments)
    if chosen.strict and not chosen.against:
        parser.error("--strict says how to compare: it needs --against REV")
    options = read_options(read_params())
    if chosen.against:
        return against(chosen.against, "verdict_strict" if chosen.strict else "verdict_suite", options.examples)
    return score_predictions(options)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]), arguments=True)
