"""Trainings and scores in short: the files that the stages leave in the workspace, for the tests of tracking."""

import shutil
import time

from text2sql.files import read_json, write_json, write_jsonl, write_text
from text2sql.track import record, training_run
from text2sql.workspace import ADAPTER, METRICS, PLOTS, PREDICTIONS, SCORE, SPLITS, VERDICTS_CSV, adapter_sha256


def params(**changes):
    """A params.yaml; `changes` by dotted names."""
    values = {
        "seed": 1,
        "data": {"name": "mini", "split": {"statuses": ["verified", "verified_ties"]}},
        "model": {"name": "tiny"},
        "train": {"learning_rate": 0.001, "limit": None},
        "predict": {"batch_size": 16},
        "score": {"workers": 2},
        "tracking": {"kind": "mlflow", "uri": None, "experiment": "text2sql", "system_seconds": 0.0},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    return values


def copy_database(database, root):
    """The database into another root."""
    shutil.copy(database, root)


def make_adapter(content):
    """models/adapter with these weights; returns its hash."""
    ADAPTER.mkdir(parents=True, exist_ok=True)
    (ADAPTER / "adapter_model.safetensors").write_text(content)
    return adapter_sha256(ADAPTER)


def loss(step):
    return round(1 / (1 + step), 4)


def runs(client, group="text2sql"):
    """All runs, oldest first."""
    experiment = client.get_experiment_by_name(group)
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]) if experiment else []


def curve(client, run, name="loss/train_nats"):
    return [(m.step, m.value) for m in sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)]


def finish(fingerprint, steps, val_loss, content, measured=None):
    """What stages/train.py writes at its end."""
    digest = make_adapter(content)
    write_text(
        PLOTS / "loss.csv",
        "step,train_loss,val_loss\n"
        + "".join(f"{s},{loss(s)},\n" for s in steps)
        + f"{max(steps, default=40)},,{val_loss}\n",
    )
    figures = {"train_loss": 0.1, "val_loss": val_loss, "seconds": 6.0, "device": "cpu", "fingerprint": fingerprint}
    write_json(METRICS / "train.json", figures | (measured or {}))
    return digest


def train(fingerprint="f1", steps=range(3), val_loss=0.5, content="one", recorded=None, measured=None, **changes):
    """A training in short; returns its adapter's hash. `recorded`: the steps that it takes, of all that there are;
    `measured`: more figures."""
    with training_run(fingerprint, params(**changes)) as run:
        for step in steps if recorded is None else recorded:
            run.metrics({"loss/train_nats": loss(step)}, step=step)
        return finish(fingerprint, steps, val_loss, content, measured)


def predict(adapter):
    """What stages/predict.py writes."""
    row = {"id": "q", "db_id": "shop", "question": "How many?", "gold": "SELECT 1", "predicted": "SELECT 1"}
    write_jsonl(PREDICTIONS, [row])
    write_jsonl(SPLITS / "test.jsonl", [{name: row[name] for name in ("id", "db_id", "question")}])
    write_json(METRICS / "predict.json", {"adapter_sha256": adapter})


def score(adapter, accuracy=0.4, **changes):
    """A prediction and a score in short."""
    predict(adapter)
    level = {"n": 1, "execution_accuracy": accuracy, "ci95": [0.1, 0.7]}
    figures = {"n": 1, "excluded": 0, "execution_accuracy": accuracy, "execution_accuracy_strict": accuracy}
    write_json(SCORE, {**figures, "valid_sql": 1.0, "ci95": [0.1, 0.7], "by_hardness": {"easy": level}})
    write_text(VERDICTS_CSV, "id,db_id,hardness,verdict_suite,verdict_strict,reason\nq,shop,easy,True,True,\n")
    record(params(**changes))
    return read_json(SCORE)


def until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)
    return value
