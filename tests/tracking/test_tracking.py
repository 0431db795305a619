"""What a stage records arrives in MLflow once, whole and in the right run, whatever is down, locked, old or killed."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from recording import curve, params, runs, score, sync, train, until

from text2sql import tracking
from text2sql.errors import UserError
from text2sql.tracking import Journal, adapter_sha256, flat, journals, scoring_run, training_run

PROJECT = Path(__file__).resolve().parents[2]


def test_flat_names_nested_parameters():
    values = {"a": {"b": 1.0, "c": {"d": None}}, "e": ["x"], "f": "text", "g": True}
    assert flat(values) == {"a.b": "1.0", "a.c.d": "null", "e": '["x"]', "f": "text", "g": "true"}


def test_one_run_holds_training_and_scoring(store, clone):
    digest = train()
    score(digest)
    assert sync() == 0
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "trunk"
    assert run.data.params == {
        "seed": "1", "data.name": "mini", "data.split.statuses": '["verified", "verified_ties"]', "model.name": "tiny",
        "train.learning_rate": "0.001", "train.limit": "null", "predict.batch_size": "16", "score.workers": "2",
    }  # fmt: skip
    assert curve(store, run) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert run.data.metrics["execution_accuracy"] == 0.4
    tags = run.data.tags
    assert (tags["adapter_sha256"], tags["dataset"], tags["model"], tags["experiment"]) == (
        digest, "mini", "tiny", "trunk",
    )  # fmt: skip
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.tags[0].value) == ("val.jsonl", "validation")
    table = store.download_artifacts(run.info.run_id, "predictions.json", str(clone))
    assert json.loads(Path(table).read_text()) == {"columns": ["question", "correct"], "data": [["How many?", True]]}
    assert [a.path for a in store.list_artifacts(run.info.run_id)] == ["plots", "predictions.json"]
    assert run.info.artifact_uri.startswith(str(clone / "mlruns" / "text2sql"))
    assert not any(p.is_dir() for p in journals().iterdir())


def test_mlflow_ui_without_arguments_finds_the_runs(store, clone):
    import mlflow

    train()
    sync()
    mlflow.set_tracking_uri(None)
    assert mlflow.get_tracking_uri() == f"sqlite:///{clone / 'mlflow.db'}"
    assert len(mlflow.search_runs(experiment_names=["text2sql"])) == 1


def test_a_copy_that_dvc_runs_in_records_in_the_root(store, clone, tmp_path_factory, monkeypatch):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copy("val.jsonl", copy)
    monkeypatch.chdir(copy)
    for name, value in {
        "ROOT": str(clone),
        "EXP_NAME": "lazy-owl",
        "EXP_BASELINE_REV": "abc",
        "STAGE": "train",
    }.items():
        monkeypatch.setenv(f"DVC_{name}", value)
    Path("dvc.yaml").write_text("stages:\n  train:\n    deps: [data/prompts, stages/train.py]\n")
    Path("dvc.lock").write_text("stages:\n  prompts:\n    outs:\n    - path: data/prompts\n      md5: 123.dir\n")
    train()
    shutil.rmtree(copy / "adapter")
    monkeypatch.chdir(clone)
    sync()
    (run,) = runs(store)
    assert run.info.run_name == "lazy-owl"
    assert run.data.tags["base_revision"] == "abc"
    assert run.data.tags["input.data/prompts"] == "123.dir"
    assert "input.stages/train.py" not in run.data.tags


def test_best_is_the_version_of_least_validation_loss_and_loads_by_name(store, clone):
    from text2sql.mlflow_store import fetch

    hashes = [train(f"f{n}", val_loss=loss, content=str(n)) for n, loss in enumerate((0.5, 0.3, 0.4))]
    sync()
    assert store.get_model_version_by_alias("text2sql-mini-tiny", "best").version == 2
    assert fetch("text2sql-mini-tiny@best", clone / "got") == hashes[1] == adapter_sha256(clone / "got")
    assert fetch("text2sql-mini-tiny/3", clone / "third") == hashes[2]
    with pytest.raises(UserError, match="no registered adapter text2sql-mini-big"):
        fetch("text2sql-mini-big@best", clone / "none")


def test_an_adapter_whose_stored_files_changed_is_refused(store, clone):
    from text2sql.mlflow_store import fetch

    train()
    sync()
    (stored,) = (clone / "mlruns" / "text2sql" / "models").rglob("*.safetensors")
    stored.write_text("changed")
    with pytest.raises(UserError, match="hash to"):
        fetch("text2sql-mini-tiny/1", clone / "got")


def test_a_sender_that_takes_long_holds_no_stage_up(clone, monkeypatch, capsys):
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = []
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    monkeypatch.setattr(
        tracking,
        "_start_sender",
        lambda _: started.append(subprocess.Popen(sleeper, stdin=subprocess.PIPE)) or started[0],
    )
    before = time.monotonic()
    with training_run("f1", params()) as run:
        run.metrics({"train_loss": 1.0}, step=1)
    assert time.monotonic() - before < 30
    assert "still being sent" in capsys.readouterr().err
    started[0].kill()
    started[0].wait()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("diverged"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(), "KILLED")]
)
def test_a_run_that_ends_badly_is_marked_and_its_resumption_continues_it(store, error, status):
    """SystemExit comes of SIGTERM."""

    def cut_off():
        with training_run("f1", params()) as run:
            for step in range(3):
                run.metrics({"train_loss": step}, step=step)
            if isinstance(error, SystemExit):
                os.kill(os.getpid(), signal.SIGTERM)
            raise error

    with pytest.raises(type(error)):
        cut_off()
    sync()
    (run,) = runs(store)
    assert run.info.status == status
    # The checkpoint was at step 1: step 2 is trained again, and is not recorded twice.
    train("f1", steps=range(2, 5))
    sync()
    (resumed,) = runs(store)
    assert resumed.info.run_id == run.info.run_id
    assert resumed.info.status == "FINISHED"
    assert [step for step, _ in curve(store, resumed)] == [0, 1, 2, 3, 4]


def test_a_figure_of_the_whole_run_leaves_its_curve_alone(store):
    with training_run("f1", params()) as run:
        run.metrics({"train_loss": 2.0}, step=1)
        run.metrics({"train_loss": 1.0}, step=2)
        run.metrics({"train_loss": 1.5, "seconds": 7})
    sync()
    (run,) = runs(store)
    assert curve(store, run) == [(1, 2.0), (2, 1.0)]
    assert run.data.metrics == {"train_loss": 1.0, "seconds": 7.0}


def test_an_experiment_run_again_under_its_name_has_one_run(store, monkeypatch):
    """As it was killed after its training had ended, say. Under another name it is another experiment."""
    train()
    sync()
    train()
    sync()
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert len(curve(store, run)) == 3
    assert len(store.search_model_versions("name = 'text2sql-mini-tiny'")) == 1
    monkeypatch.setenv("DVC_EXP_NAME", "another")
    train()
    sync()
    assert [run.info.run_name for run in runs(store)] == ["trunk", "another"]


def test_scoring_with_other_options_is_a_run_below(store):
    digest = train()
    score(digest, 0.4)
    score(digest, 0.4)
    score(digest, 0.5, predict__batch_size=8)
    score(digest, 0.5, predict__batch_size=8)
    sync()
    first, below = runs(store)
    assert first.data.metrics["execution_accuracy"] == 0.4
    assert below.data.metrics["execution_accuracy"] == 0.5
    assert below.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert below.data.params["train.learning_rate"] == "0.001"
    assert below.info.status == "FINISHED"


def test_an_experiment_restored_from_the_cache_points_at_its_run(store, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "first")
    digest = train()
    score(digest)
    monkeypatch.setenv("DVC_EXP_NAME", "again")
    score(digest)
    sync()
    (run,) = runs(store)
    assert run.info.run_name == "first"
    assert run.data.tags["experiments"] == "first, again"


def test_scoring_an_adapter_without_a_run_makes_one(store):
    score("0" * 64)
    sync()
    (run,) = runs(store)
    assert run.data.metrics["execution_accuracy"] == 0.4
    assert run.info.status == "FINISHED"


def test_a_scoring_that_fails_leaves_the_training_finished(store):
    digest = train()
    with pytest.raises(ValueError, match="no"), scoring_run(digest, params()):
        raise ValueError("no")
    sync()
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["scoring_status"] == "FAILED"


def test_sending_twice_records_once(store, monkeypatch):
    from text2sql import mlflow_store

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_store, "_done", lambda journal: None)
        train()
        sync()
    (journal,) = [Journal(p) for p in journals().iterdir() if p.is_dir()]
    # As if the sender had been killed before it noted what it had sent.
    journal.state_file.unlink()
    sync()
    (run,) = runs(store)
    assert len(curve(store, run)) == 3
    assert len(store.search_model_versions("name = 'text2sql-mini-tiny'")) == 1


# --- Tracking that is down -------------------------------------------------------------------------------------------


def test_an_unreachable_server_keeps_nothing_up_and_loses_nothing(store, clone, capsys):
    with socket.socket() as taken:  # bound, but not listening: refuses
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        digest = train(tracking__uri=uri)
        score(digest, tracking__uri=uri)
        assert "wait in" in capsys.readouterr().err
        assert sync() == 1
    assert sync(f"sqlite:///{clone / 'mlflow.db'}") == 0
    (run,) = runs(store)
    assert len(curve(store, run)) == 3
    assert run.data.metrics["execution_accuracy"] == 0.4


def test_a_folder_that_cannot_be_written_does_not_stop_a_training(clone, capsys):
    Path("mlruns").write_text("in the way")
    digest = train()
    assert len(digest) == 64
    assert "is not tracked" in capsys.readouterr().err


def test_a_locked_database_loses_nothing(store, clone):
    train()
    lock = sqlite3.connect(clone / "mlflow.db", check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(2, lock.rollback).start()
    deadline = time.monotonic() + 60
    while sync() and time.monotonic() < deadline:
        time.sleep(0.5)
    (run,) = runs(store)
    assert len(curve(store, run)) == 3


def test_a_database_of_an_older_schema_is_migrated_with_a_copy(clone, database):
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    from text2sql import mlflow_store

    old = "bd07f7e963c5"  # the revision of MLflow 1.20
    engine = create_engine(f"sqlite:///{clone / 'mlflow.db'}")
    utils.InitialBase.metadata.create_all(engine)
    from alembic import command

    config = utils._get_alembic_config(f"sqlite:///{clone / 'mlflow.db'}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, old)
    with sqlite3.connect(clone / "mlflow.db") as connection:
        connection.execute("INSERT INTO experiments(experiment_id, name, artifact_location, lifecycle_stage) "
                           "VALUES (7, 'from before', '/tmp', 'active')")  # fmt: skip
    train()
    assert sync() == 0
    client = mlflow_store.connect()
    assert client.get_experiment_by_name("from before").experiment_id == "7"
    assert len(runs(client)) == 1
    assert (clone / f"mlflow.db.{old}.bak").exists()


def test_a_database_of_a_newer_mlflow_is_left_alone(store, clone):
    with sqlite3.connect(clone / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    train()
    assert sync() == 1
    with sqlite3.connect(clone / "mlflow.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("fromthefuture",)
    assert any(journals().glob("train-*/events.jsonl"))


# --- Real processes --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from recording import *
from text2sql.tracking import adapter_sha256
with training_run(sys.argv[1], params(tracking__system_seconds=0.5)) as run:
    for step in range(int(sys.argv[2]), int(sys.argv[3])):
        run.metrics({{"train_loss": step}}, step=step)
        time.sleep(0.05)
    print("trained", flush=True)
    if sys.argv[4] == "hang":
        time.sleep(60)
    adapter = make_adapter(sys.argv[1], "adapter-" + sys.argv[1])
    run.adapter(adapter, 0.5)
score(adapter_sha256(adapter))
"""


def start(*arguments):
    """A training and scoring in a process of its own, with senders."""
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_workers_on_a_fresh_database(clone):
    """Both make the database: one does, the other waits, and each ends with its own finished run."""
    from text2sql import mlflow_store

    workers = [start(name, 0, 5, "finish") for name in ("left", "right")]
    assert [w.wait(120) for w in workers] == [0, 0]
    assert sync() == 0  # on a busy machine a stage does not wait for the last of its entries
    client = mlflow_store.connect()
    found = runs(client)
    assert sorted(r.data.tags["fingerprint"] for r in found) == ["left", "right"]
    assert {r.info.status for r in found} == {"FINISHED"}
    assert all(len(curve(client, r)) == 5 and r.data.metrics["execution_accuracy"] == 0.4 for r in found)
    assert all("system/cpu_utilization_percentage" in r.data.metrics for r in found)
    versions = client.search_model_versions("name = 'text2sql-mini-tiny'")
    assert {v.run_id for v in versions} == {r.info.run_id for r in found}


def test_sync_waits_for_another_sender(store, monkeypatch, capsys):
    from text2sql import mlflow_store
    from text2sql.tracking import Journal, journals

    train()
    (folder,) = journals().glob("train-*")
    other = Journal(folder).lock("sender")
    monkeypatch.setattr(mlflow_store, "OTHERS", 0.3)
    assert sync() == 1
    assert "another process is still sending it" in capsys.readouterr().err
    assert runs(store) == []
    monkeypatch.setattr(mlflow_store, "OTHERS", 60.0)
    threading.Timer(1.0, other.close).start()
    assert sync() == 0
    assert [r.info.status for r in runs(store)] == ["FINISHED"]


def test_a_killed_training_is_marked_at_once_and_continued(store):
    worker = start("f1", 0, 5, "hang")
    assert worker.stdout.readline() == "trained\n"
    worker.kill()
    worker.wait(60)
    until(lambda: [r.info.status for r in runs(store)] == ["KILLED"])
    assert start("f1", 3, 8, "finish").wait(120) == 0
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(store, run)] == list(range(8))


# --- Off, and beside ------------------------------------------------------------------------------------------------


def test_none_records_nothing(clone):
    digest = train(tracking__kind="none")
    score(digest, tracking__kind="none")
    assert not (clone / "mlruns").exists()


def test_only_the_first_of_several_processes_records(clone, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    train()
    assert not (clone / "mlruns").exists()


def test_tensorboard_gets_the_curves(clone):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tracking__kind="none", tracking__tensorboard=True)
    (folder,) = (clone / "tensorboard").iterdir()
    log = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in log.Scalars("train_loss")] == [0, 1, 2]


HEAVY = {"mlflow", "torch", "transformers", "trl", "peft", "gradio", "hydra"}


@pytest.mark.parametrize("stage", ["source", "databases", "convert", "split", "base_model", "prompts", "release"])
def test_data_stages_import_nothing_heavy(stage):
    code = f"import sys, json, stages.{stage}; print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert not HEAVY & set(json.loads(done.stdout))
