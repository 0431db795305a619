"""Each scored question as a trace in MLflow: its prompt, the candidates, the SQL, the gold query and the verdict.

    python -m text2sql.track sync --traces

Not a part of `sync` by itself: a trace takes MLflow a tenth of a second, a run of Spider's dev minutes.
"""

from __future__ import annotations

import os

from text2sql.files import read_csv, read_jsonl, sha256
from text2sql.progress import track
from text2sql.workspace import PREDICTIONS, PROMPTS, VERDICTS_CSV


def log_traces(experiment: str, run_id: str) -> int:
    """Log the questions that the run has no trace of with these predictions; returns how many.

    Args:
        experiment: the id of the run's experiment, in MLflow's current store.
        run_id: of the adapter that made the predictions.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # a verdict needs its trace to be there
    import mlflow

    tags = {"predictions": sha256(PREDICTIONS)}
    query = f"tags.predictions = '{tags['predictions']}'"
    there = mlflow.search_traces(
        locations=[experiment], filter_string=query, run_id=run_id, include_spans=False, return_type="list"
    )
    logged = {trace.info.tags["id"] for trace in there}
    prompted = PROMPTS / "test.jsonl"
    prompts = {row["id"]: row["prompt"] for row in read_jsonl(prompted)} if prompted.exists() else {}
    verdicts = {row["id"]: row for row in read_csv(VERDICTS_CSV)}
    rows = [row for row in read_jsonl(PREDICTIONS) if row["id"] not in logged]
    for row in track(rows, "tracing"):
        verdict = verdicts[row["id"]]
        span = mlflow.start_span_no_context(
            "question",
            span_type="LLM",
            inputs={"question": row["question"], "prompt": prompts.get(row["id"])},
            tags=tags | {name: verdict[name] for name in ("id", "db_id", "hardness", "reason")},
            metadata={"mlflow.sourceRun": run_id},
            experiment_id=experiment,
        )
        # All that were drawn, with their likelihoods, where the SQL was chosen among several.
        drawn = {"candidates": row["candidates"]} if "candidates" in row else {}
        span.end(outputs={"sql": row["predicted"], **drawn})
        mlflow.log_expectation(trace_id=span.trace_id, name="sql", value=row["gold"])
        for name in ("verdict_suite", "verdict_strict"):
            if verdict[name]:  # empty where the gold query fails
                is_right, why = verdict[name] == "True", verdict["reason"] or None
                mlflow.log_feedback(trace_id=span.trace_id, name=name, value=is_right, rationale=why)
    return len(rows)
