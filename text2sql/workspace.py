"""Where the pipeline's files lie in a workspace, as dvc.yaml names them, and of which adapter they are.

Data and models are DVC's, metrics git's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text2sql.errors import as_made
from text2sql.files import read_json, read_jsonl, sha256, sha256_tree

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
#: files of a release that are not the adapter's: the adapter's hash leaves them out
BESIDE = {"README.md", "manifest.json"}


def adapter_sha256(adapter: Path) -> str:
    """One hash of an adapter's files, by which its run is found."""
    files = {name: sum_ for name, sum_ in sha256_tree(adapter).items() if name not in BESIDE}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def is_scored(adapter: str) -> bool:
    """Whether predictions and score in the workspace are those of this adapter, which metrics/predict.json names."""
    predicted = METRICS / "predict.json"
    needed = (predicted, SPLITS / "test.jsonl", PREDICTIONS, SCORE, VERDICTS_CSV)
    with as_made(predicted):
        return all(path.exists() for path in needed) and read_json(predicted).get("adapter_sha256") == adapter


def is_released() -> bool:
    """Whether models/release is the release of the workspace's adapter."""
    manifest, weights = RELEASE / "manifest.json", ADAPTER / "adapter_model.safetensors"
    there = manifest.exists() and weights.exists()
    with as_made(manifest, "`dvc repro release` makes it again"):
        return there and read_json(manifest)["files"].get(weights.name) == sha256(weights)


def accuracy_in_words(score: Mapping[str, Any]) -> str:
    """`62.0 % of 50 test questions right (95 %: 48.2 to 74.1)`, from metrics/score.json."""
    low, high = (f"{100 * bound:.1f}" for bound in score["ci95"])
    return f"{100 * score['execution_accuracy']:.1f} % of {score['n']} test questions right (95 %: {low} to {high})"


def validation_sha256() -> str:
    """A hash of the validation answers, whatever the prompt; empty where there are none."""
    path = PROMPTS / "val.jsonl"
    answers = [(row["id"], row.get("completion")) for row in read_jsonl(path)] if path.exists() else []
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest() if answers else ""
