"""Trainings and scorings in short, for the tests of tracking."""

import time
from pathlib import Path

from text2sql.tracking import scoring_run, training_run


def params(**changes):
    """A params.yaml; `changes` by dotted names."""
    values = {
        "seed": 1,
        "data": {"name": "mini", "split": {"statuses": ["verified", "verified_ties"]}},
        "model": {"name": "tiny"},
        "train": {"learning_rate": 0.001, "limit": None},
        "predict": {"batch_size": 16},
        "score": {"workers": 2},
        "tracking": {
            "kind": "mlflow", "uri": None, "experiment": "text2sql", "system_seconds": 0.0, "tensorboard": False,
        },
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    return values


def make_adapter(content, folder="adapter"):
    """A folder in place of an adapter; returns its path."""
    path = Path(folder)
    path.mkdir(exist_ok=True)
    (path / "adapter_model.safetensors").write_text(content)
    return path


def sync(uri=None):
    from text2sql import mlflow_store

    return mlflow_store.sync(uri)


def runs(client):
    """All runs, oldest first."""
    experiment = client.get_experiment_by_name("text2sql")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]) if experiment else []


def curve(client, run, name="train_loss"):
    return [(m.step, m.value) for m in sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)]


def train(fingerprint="f1", steps=range(3), val_loss=0.5, content="one", **changes):
    """A training in short; returns its adapter's hash."""
    with training_run(fingerprint, params(**changes)) as run:
        run.dataset(Path("val.jsonl"), "validation")
        for step in steps:
            run.metrics({"train_loss": 1 / (1 + step)}, step=step)
        run.metrics({"val_loss": val_loss})
        return run.adapter(make_adapter(content), val_loss)


def score(adapter, accuracy=0.4, **changes):
    with scoring_run(adapter, params(**changes)) as run:
        run.metrics({"execution_accuracy": accuracy})
        plots = Path("plots")
        plots.mkdir(exist_ok=True)
        (plots / "loss.csv").write_text("step,train_loss\n")
        run.artifact(plots)
        run.table([{"question": "How many?", "correct": True}], "predictions.json")


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)
    return value
