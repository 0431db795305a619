"""Figures of judged predictions: accuracies with their interval, by group, errors by class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlglot import exp

from text2sql.scoring.hardness import LEVELS
from text2sql.scoring.judge import category
from text2sql.sql import tree_of

Row = Mapping[str, Any]

#: SQL features of a gold query, and the nodes of its tree that show them.
FEATURES: dict[str, tuple[type[exp.Expression], ...]] = {
    "join": (exp.Join,),
    "group": (exp.Group,),
    "nesting": (exp.Subquery, exp.In, exp.Exists),
    "set operation": (exp.SetOperation,),
    "order": (exp.Order,),
    "distinct": (exp.Distinct,),
    "aggregate": (exp.AggFunc,),
}
#: The normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval (1927) of a share at 95 %: sound for small n and for shares near 0 and 1.

    >>> [round(bound, 4) for bound in wilson(50, 100)]
    [0.4038, 0.5962]
    >>> wilson(0, 0)
    (0.0, 1.0)
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the bound is exactly the share; rounding must not move it past that.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def features(sql: str) -> list[str]:
    """The features of a PostgreSQL query; `plain` if it has none, `unknown` if sqlglot cannot read it.

    >>> features("SELECT a FROM t WHERE b IN (SELECT c FROM u ORDER BY d)")
    ['nesting', 'order']
    """
    if (tree := tree_of(sql)) is None:
        return ["unknown"]
    present = [name for name, nodes in FEATURES.items() if name != "nesting" and tree.find(*nodes)]
    if any(select.find_ancestor(exp.Select) for select in tree.find_all(exp.Select)):
        present.append("nesting")
    return sorted(present, key=list(FEATURES).index) or ["plain"]


def shares(rows: Sequence[Row]) -> dict[str, Any]:
    """n, both accuracies, valid SQL and the interval of the suite accuracy over rows none of which is excluded; and, if
    the rows have them, the accuracy with every answer that the gold queries leave open, and that on shuffled rows."""
    n = len(rows)
    optional = {"execution_accuracy_open": "verdict_open", "execution_accuracy_shuffled": "verdict_shuffled"}
    known = {figure: sum(row[key] for row in rows) for figure, key in optional.items() if all(key in r for r in rows)}
    suite = sum(row["verdict_suite"] for row in rows)
    strict = sum(row["verdict_strict"] for row in rows)
    return {
        "n": n,
        "execution_accuracy": _share(suite, n),
        "ci95": [round(bound, 6) for bound in wilson(suite, n)],
        "execution_accuracy_strict": _share(strict, n),
        "valid_sql": _share(sum(row["error"] is None for row in rows), n),
        **{figure: _share(right, n) for figure, right in known.items() if n},
    }


def score_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """metrics/score.json of the rows of verdicts.jsonl, each of which also has `hardness`."""
    scored = [row for row in rows if row["verdict_suite"] is not None]
    total = shares(scored)
    strict = sum(row["verdict_strict"] for row in scored)
    return {
        **total,
        "ci95_strict": [round(bound, 6) for bound in wilson(strict, len(scored))],
        "excluded": len(rows) - len(scored),
        "by_hardness": by(scored, lambda row: [row["hardness"]] if row["hardness"] else [], LEVELS),
        "by_feature": by(scored, lambda row: features(row["gold"]), [*FEATURES, "plain", "unknown"]),
        "by_gold_result": by(scored, lambda row: [row["gold_result"]], ["rows", "nothing"]),
        "by_database": by(scored, lambda row: [row["db_id"]], sorted({row["db_id"] for row in scored})),
        "errors": count_errors(scored),
    }


def by(rows: Iterable[Row], groups: Callable[[Row], Iterable[str]], order: Sequence[str]) -> dict[str, Any]:
    """`shares` of each group of rows, in the order given, without empty ones."""
    members: dict[str, list[Row]] = {name: [] for name in order}
    for row in rows:
        for name in groups(row):
            members[name].append(row)
    return {name: shares(group) for name, group in members.items() if group}


def count_errors(rows: Iterable[Row]) -> dict[str, int]:
    """How many rejected predictions (suite) there are of each class, the most frequent first."""
    counted = Counter(category(row) for row in rows if not row["verdict_suite"])
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _share(part: int, n: int) -> float:
    return round(part / n, 6) if n else 0.0


def accuracy_csv(score: Mapping[str, Any]) -> str:
    """Accuracy by hardness out of `score_figures`, for `dvc plots show`."""
    lines = [f"{level},{group['execution_accuracy']},{group['n']}" for level, group in score["by_hardness"].items()]
    return "\n".join(["hardness,execution_accuracy,n", f"all,{score['execution_accuracy']},{score['n']}", *lines, ""])
