"""DVC's queue with two workers: experiments and MLflow runs match by name and adapter.

The stages here record like the real ones and train nothing; dev/sweep.py does the same with the real pipeline.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.track.workspace import runs
from text2sql.workspace import ADAPTER, adapter_sha256

PROJECT = Path(__file__).resolve().parents[2]
TRAIN = """
from tests.track.workspace import *
from text2sql.config import read_params
rate = read_params()["train"]["learning_rate"]
with training_run(f"rate {rate}") as run:
    run.metrics({"loss/train_nats": rate}, step=1)
    finish(f"rate {rate}", [1], rate, f"weights of {rate}")
"""
SCORE = """
from tests.track.workspace import *
score(adapter_sha256(ADAPTER))
"""
PIPELINE = """
stages:
  train:
    cmd: python train.py
    params: [train]
    deps: [train.py]
    outs: [models/adapter]
  score:
    cmd: python score.py
    params: [score]
    deps: [score.py, models/adapter]
    metrics: [{metrics/score.json: {cache: false}}]
"""
CONFIG = """
data: {name: mini}
model: {name: tiny}
train: {learning_rate: 0.1}
predict: {batch_size: 16}
score: {workers: 2}
tracking: {kind: mlflow, uri: null, experiment: text2sql, system_seconds: 0.0}
"""


def sh(*command):
    """Run a command; returns what it printed, to a file: workers that stay would hold a pipe open."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")}
    environment |= {"PYTHONPATH": f"{PROJECT}{os.pathsep}{Path(__file__).parent}", "DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryFile("w+") as out:
        done = subprocess.run(command, stdout=out, stderr=out, env=environment, check=False)
        out.seek(0)
        text = out.read()
    assert done.returncode == 0, f"{command}: {text}"
    return text


@pytest.fixture
def pipeline(store):
    """A repository of two stages, in the folder where `store` has its database."""
    for name, text in {"train.py": TRAIN, "score.py": SCORE, "dvc.yaml": PIPELINE, "conf/config.yaml": CONFIG}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path(".gitignore").write_text("/mlruns/\n/mlflow.db*\n/models/adapter\n")
    shutil.rmtree("models")
    Path(".dvc").rmdir()
    sh("dvc", "init", "--quiet")
    sh("dvc", "config", "hydra.enabled", "true")
    sh("git", "config", "user.name", "test")
    sh("git", "config", "user.email", "test@localhost")
    Path("params.yaml").write_text(CONFIG)
    sh("git", "add", "--all")
    sh("git", "commit", "--quiet", "--message", "pipeline")
    return store


@pytest.mark.slow
def test_a_queued_sweep_with_two_workers(pipeline):
    sh("dvc", "exp", "run", "--queue", "--name", "rates", "-S", "train.learning_rate=0.2,0.3")
    sh("dvc", "queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 240
    while "Queued" in (status := sh("dvc", "queue", "status")) or "Running" in status:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.count("Success") == 2, sh("dvc", "queue", "logs", "rates-1")
    found = {run.info.run_name: run for run in runs(pipeline)}
    assert sorted(found) == ["rates-1", "rates-2"]
    assert len(runs(pipeline)) == 2
    for name, run in found.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["execution_accuracy"] == 0.4
        # The adapter that DVC has for the experiment of that name is the one that the run names.
        sh("dvc", "exp", "apply", name)
        assert adapter_sha256(ADAPTER) == run.data.tags["adapter_sha256"]
