"""The HTML report of a scoring: figures as bars with their intervals, and examples of every class of error.

One file without scripts and without anything from elsewhere, so that it opens from disk, from a mail and from MLflow.
Whatever a model wrote is escaped by the template.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot.tokens import TokenType

from text2sql.files import read_beside
from text2sql.postgres.compare import Result
from text2sql.postgres.sandbox import ALLOWED
from text2sql.scoring.confidence import risk_coverage
from text2sql.scoring.judge import category

TEMPLATE = Path(__file__).with_name("report.html.j2")

#: what a class of error means, for a reader
MEANINGS = read_beside(__file__)
#: Rows and columns of a result that an example shows, and characters of a value.
ROWS, COLUMNS, CHARACTERS = 5, 6, 40
#: Functions and words that make a result differ from run to run, while dvc.lock pins the report's bytes.
_CLOCKS = ("age", "now", "pg_backend_pid", "statement_timestamp", "transaction_timestamp")
CHANGING_FUNCTIONS = {*ALLOWED, *_CLOCKS}
CHANGING_WORDS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}


def is_changing(sql: str) -> bool:
    """Whether a query asks for the time or for chance.

    >>> is_changing("SELECT Now() - born FROM singer"), is_changing("SELECT age, 'now()' FROM singer")
    (True, False)
    """
    try:
        tokens = sqlglot.tokenize(f"{sql} ;", read="postgres")
    except sqlglot.errors.SqlglotError:
        return False  # it has no result
    pairs = [(token, following.token_type) for token, following in itertools.pairwise(tokens)]
    calls = {token.text.lower() for token, following in pairs if following == TokenType.L_PAREN}
    words = {token.text.lower() for token, _ in pairs if token.token_type != TokenType.STRING}
    return bool(calls & CHANGING_FUNCTIONS or words & CHANGING_WORDS)


def preview(result: Result, sql: str) -> dict[str, Any]:
    """The first rows of the result of `sql` as text; no values if they change from run to run."""
    if is_changing(sql):
        result = Result(message="a result that depends on the time or on chance is not shown")

    def text(value: Any) -> str:
        shown = "NULL" if value is None else str(value)
        return shown if len(shown) <= CHARACTERS else shown[: CHARACTERS - 1] + "…"

    return {
        "columns": [text(name) for name in result.columns[:COLUMNS]],
        "rows": [[text(value) for value in row[:COLUMNS]] for row in result.rows[:ROWS]],
        "n": len(result.rows),
        "width": len(result.columns),
        "message": result.message,
    }


def error_examples(rows: Sequence[Mapping[str, Any]], n: int) -> dict[str, list[Mapping[str, Any]]]:
    """The first `n` rejected rows of each class of error, of as many databases as there are."""
    by_class: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["verdict_suite"] is False:
            by_class.setdefault(category(row), []).append(row)
    return {name: _spread(members, n) for name, members in by_class.items()}


def _spread(rows: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    """`n` rows, taken in turn from each database."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        turns.append(seen.get(row["db_id"], 0))
        seen[row["db_id"]] = turns[-1] + 1
    order = sorted(range(len(rows)), key=lambda i: (turns[i], i))[:n]
    return [rows[i] for i in order]


def render_report(
    score: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    previews: Mapping[str, Mapping[str, Any]],
    n_examples: int,
) -> str:
    """The report.

    Args:
        score: metrics/score.json.
        rows: the rows of verdicts.jsonl.
        previews: by id, `gold` and `predicted` as `preview` makes them, of the rejected rows.
        n_examples: examples of each class of error.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["interval"] = lambda ends: f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"
    groups = [
        ("Hardness", "by_hardness"),
        ("Features of the gold query", "by_feature"),
        ("Result of the gold query", "by_gold_result"),
        ("Databases", "by_database"),
    ]
    answers = [row for row in rows if row["verdict_suite"] is not None and "confidence" in row]
    curve = risk_coverage([row["confidence"] for row in answers], [row["verdict_suite"] for row in answers])
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        score=score,
        curve=curve,
        groups=[(name, score[key]) for name, key in groups],
        errors=score["errors"],
        examples=error_examples(rows, n_examples),
        excluded=[row for row in rows if row["verdict_suite"] is None][:n_examples],
        strict_only=_spread([row for row in rows if row["verdict_suite"] and not row["verdict_strict"]], n_examples),
        previews=previews,
        meanings=MEANINGS,
    )
