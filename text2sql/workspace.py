"""Where the pipeline's files lie in a workspace, as dvc.yaml names them: data and models are DVC's, metrics git's."""

from __future__ import annotations

from pathlib import Path

DATA, MODELS, METRICS = Path("data"), Path("models"), Path("metrics")

#: of data=custom: the user's schema and pairs
CUSTOM = DATA / "custom"
#: Spider's layout: a SQLite database each, tables.json, questions with gold queries
SOURCE = DATA / "source"
#: one PostgreSQL dump each, their schemas, and the examples with their converted queries
DUMPS = DATA / "postgres" / "databases"
INDEX = DATA / "postgres" / "schema_index.json"
EXAMPLES = DATA / "postgres" / "examples.jsonl"
#: train.jsonl, val.jsonl and test.jsonl: the examples, and their prompts
SPLITS, PROMPTS = DATA / "splits", DATA / "prompts"
#: what the model answered, and how the answers to the test questions were judged
PREDICTIONS = DATA / "predictions" / "test.jsonl"
VALIDATION_PREDICTIONS = DATA / "predictions" / "val.jsonl"
VERDICTS = DATA / "predictions" / "verdicts.jsonl"

#: the base model, what was trained on it, what is released, and releases that better ones have replaced
BASE, ADAPTER, RELEASE, KEPT = MODELS / "base", MODELS / "adapter", MODELS / "release", MODELS / "kept"

#: each stage's report is METRICS / "STAGE.json"; the few figures that `dvc exp show` lists are in BRIEF
SCORE = METRICS / "score.json"
BRIEF, PLOTS = METRICS / "brief", METRICS / "plots"
LOSS_CSV, VERDICTS_CSV = PLOTS / "loss.csv", PLOTS / "verdicts.csv"
