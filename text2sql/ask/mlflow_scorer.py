"""Execution accuracy as a scorer of `mlflow.genai.evaluate`, for any model or prompt on the pipeline's databases.

data = [{"inputs": {"question": ..., "database": "shop"}, "expectations": {"sql": "SELECT ..."}}, ...]
with loaded_sandbox(["shop"], Path("data/postgres/databases"), Limits(), workers=2) as sandbox:
    mlflow.genai.evaluate(data, predict_fn=ask, scorers=[execution_accuracy(sandbox)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from text2sql.postgres.sandbox import Sandbox
from text2sql.scoring.judge import judge

if TYPE_CHECKING:
    from mlflow.entities import Feedback
    from mlflow.genai.scorers import Scorer


def execution_accuracy(sandbox: Sandbox) -> Scorer:
    """Whether the answer's rows are those of the gold query, by the verdict of the stage score.

    Args:
        sandbox: one that has the databases that `inputs["database"]` names; answers are untrusted SQL.

    Returns:
        A scorer for rows with `inputs["database"]`, `outputs` (SQL) and `expectations["sql"]` (the gold query).
    """
    from mlflow.entities import AssessmentError, Feedback
    from mlflow.genai.scorers import scorer

    @scorer(name="execution_accuracy")
    def verdict(inputs: dict[str, Any], outputs: str, expectations: dict[str, Any]) -> Feedback:
        judged = judge(sandbox, inputs["database"], expectations["sql"], outputs)
        if judged.excluded:
            return Feedback(error=AssessmentError("GOLD_FAILED", judged.gold.message))
        reason = judged.predicted.message or judged.suite.reason or "the same rows as the gold query"
        return Feedback(value=judged.suite.correct, rationale=reason)

    return verdict
