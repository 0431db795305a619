"""One prediction, executed beside its gold query, and what is to be said of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

from text2sql.postgres.alternatives import explanation
from text2sql.postgres.compare import Result, Verdict, strict, strip_distinct, suite
from text2sql.postgres.sandbox import Sandbox

#: results of more columns are compared with what the gold query leaves open in the order in which they stand only
MOST_REORDERED = 4


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Both verdicts on a prediction, and the results as the queries are written."""

    suite: Verdict
    strict: Verdict
    gold: Result
    predicted: Result

    @property
    def excluded(self) -> bool:
        """Whether the gold query gave no result, so that nothing can be said."""
        return self.gold.error is not None

    def row(self, possible: bool) -> dict[str, Any]:
        """What verdicts.jsonl keeps of it; `possible` is `verdict_open`.

        `gold_result` is `rows` or `nothing`. `reason` is that of the suite verdict, or, if that one is good, of
        the strict one; `error` and `message` are PostgreSQL's, of the gold query if that failed.
        """
        failed = self.gold if self.excluded else self.predicted
        return {
            "gold_result": "nothing" if says_nothing(self.gold) else "rows",
            "verdict_strict": None if self.excluded else self.strict.correct,
            "verdict_suite": None if self.excluded else self.suite.correct,
            "verdict_open": None if self.excluded else possible,
            "reason": self.suite.reason or self.strict.reason,
            "error": failed.error,
            "message": failed.message,
            "milliseconds": round(self.predicted.milliseconds, 3),
        }


def says_nothing(result: Result) -> bool:
    """Whether there are no rows, or one with nothing but zeros and NULLs: what many a wrong query gives as well.

    >>> [says_nothing(Result(("count",), rows)) for rows in ([], [(0,)], [(None, 0)], [("",)], [(0,), (0,)])]
    [True, True, True, False, False]
    """
    return not result.rows or (len(result.rows) == 1 and all(v is None or v == 0 for v in result.rows[0]))


def judge(sandbox: Sandbox, database: str, gold_sql: str, predicted_sql: str) -> Judgement:
    """Execute both queries and compare them.

    The suite verdict is on both queries without DISTINCT. Where that makes the gold query fail (too many rows), it is
    on the queries as written. A prediction that hangs does so once: it is not tried again without DISTINCT.
    """
    run = functools.cache(functools.partial(sandbox.execute, database))
    gold = run(gold_sql)
    if gold.error:
        failed = Verdict(False, "gold_failed")
        return Judgement(failed, failed, gold, Result())
    predicted = run(predicted_sql)
    written = strict(gold, predicted, gold_sql)
    bare = gold if predicted.error == "timeout" else run(strip_distinct(gold_sql))
    if predicted.error == "timeout" or bare.error:
        verdict = suite(gold, predicted, gold_sql)
    else:
        verdict = suite(bare, run(strip_distinct(predicted_sql)), gold_sql)
    return Judgement(verdict, written, gold, predicted)


def is_possible(sandbox: Sandbox, database: str, gold_sql: str, judged: Judgement) -> bool:
    """Whether the prediction is right by the suite verdict, or its result is another one that the gold query leaves
    open (ties that a LIMIT cuts, the order of ties, any row of a group), its columns in any order."""
    predicted = judged.predicted
    if judged.suite.correct or judged.excluded or predicted.error:
        return judged.suite.correct
    execute = functools.cache(functools.partial(sandbox.execute, database))
    width = len(predicted.columns)
    orders = itertools.permutations(range(width)) if width <= MOST_REORDERED else [range(width)]
    return any(
        explanation(gold_sql, [tuple(row[place] for place in order) for row in predicted.rows], execute) is not None
        for order in orders
    )


def category(row: Mapping[str, Any]) -> str:
    """The class of error of a rejected row of verdicts.jsonl: `unknown_column`, `row_values` and so on."""
    return row["error"] or row["reason"]
