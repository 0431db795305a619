"""What the stages record arrives in MLflow once, whole and in the right run, whatever is away, locked or killed."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import processes
from tests.track.workspace import copy_database, curve, loss, params, runs, score, train, until
from text2sql import registry, track
from text2sql.errors import UserError
from text2sql.files import sha256_tree, write_json, write_jsonl, write_text
from text2sql.registry import fetch
from text2sql.track import flat, log_workspace, main, training_run
from text2sql.workspace import ADAPTER, METRICS, PLOTS, PREDICTIONS, PROMPTS, RELEASE, adapter_sha256

PROJECT = Path(__file__).resolve().parents[2]
MODEL = "text2sql-mini-tiny"


@pytest.mark.parametrize("model", sorted(file.stem for file in Path("conf/model").glob("*.yaml")))
def test_the_registry_takes_the_name_of_each_model(model):
    from mlflow.utils.validation import _validate_model_name

    names = {"data": {"name": "mini"}, "model": {"name": model}}
    _validate_model_name(registry.registered_name(names))


def test_flat_names_nested_parameters():
    values = {"a": {"b": 1.0, "c": {"d": None}}, "e": ["x"], "f": "text", "g": True}
    assert flat(values) == {"a.b": "1.0", "a.c.d": "null", "e": '["x"]', "f": "text", "g": "true"}


def test_one_run_holds_training_and_score(store, clone):
    digest = train()
    score(digest)
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "trunk"
    assert run.data.params == {
        "seed": "1", "data.name": "mini", "data.split.statuses": '["verified", "verified_ties"]', "model.name": "tiny",
        "train.learning_rate": "0.001", "train.limit": "null", "predict.batch_size": "16", "score.workers": "2",
    }  # fmt: skip
    assert curve(store, run) == [(0, 1.0), (1, 0.5), (2, 0.3333)]
    assert run.data.metrics == {
        "loss/train_nats": 0.3333, "loss/val_nats": 0.5, "training/minutes": 0.1, "execution_accuracy": 0.4,
        "score/execution_accuracy_strict": 0.4, "score/valid_sql": 1.0, "score/accuracy": 0.4,
        "score/accuracy_easy": 0.4,
    }  # fmt: skip
    tags = run.data.tags
    assert (tags["adapter_sha256"], tags["dataset"], tags["model"], tags["experiment"]) == (
        digest, "mini", "tiny", "trunk",
    )  # fmt: skip
    data = {(entry.dataset.name, entry.tags[0].value) for entry in run.inputs.dataset_inputs}
    assert data == {("mini val", "validation"), ("mini test", "test")}
    table = json.loads(Path(store.download_artifacts(run.info.run_id, "predictions.json", str(clone))).read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True))["question"] == "How many?"
    assert [a.path for a in store.list_artifacts(run.info.run_id)] == ["plots", "predictions.json", "train.json"]
    assert run.info.artifact_uri.startswith(str(clone / "mlruns" / "text2sql"))


def test_mlflow_ui_without_arguments_finds_the_runs(store, clone):
    import mlflow

    train()
    mlflow.set_tracking_uri(None)
    assert mlflow.get_tracking_uri() == f"sqlite:///{clone / 'mlflow.db'}"
    assert len(mlflow.search_runs(experiment_names=["text2sql"])) == 1


def test_a_copy_that_dvc_runs_in_records_in_the_root(store, clone, tmp_path_factory, monkeypatch):
    copy = tmp_path_factory.mktemp("copy")
    monkeypatch.chdir(copy)
    names = {"ROOT": str(clone), "EXP_NAME": "lazy-owl", "EXP_BASELINE_REV": "abc", "STAGE": "train"}
    for name, value in names.items():
        monkeypatch.setenv(f"DVC_{name}", value)
    Path("dvc.yaml").write_text("stages:\n  train:\n    deps: [data/prompts, stages/train.py]\n")
    Path("dvc.lock").write_text("stages:\n  prompts:\n    outs:\n    - path: data/prompts\n      md5: 123.dir\n")
    train()
    shutil.rmtree(copy / "models")
    (run,) = runs(store)
    assert run.info.run_name == "lazy-owl"
    assert run.data.tags["base_revision"] == "abc"
    assert run.data.tags["input.data/prompts"] == "123.dir"
    assert "input.stages/train.py" not in run.data.tags


def test_best_is_the_version_of_least_validation_loss_and_loads_by_name(store, clone):
    hashes = [train(f"f{n}", val_loss=loss, content=str(n)) for n, loss in enumerate((0.5, 0.3, 0.4))]
    assert store.get_model_version_by_alias(MODEL, "best").version == 2
    assert fetch(f"{MODEL}@best", clone / "got") == hashes[1] == adapter_sha256(clone / "got")
    assert fetch(f"{MODEL}/3", clone / "third") == hashes[2]
    with pytest.raises(UserError, match="no registered adapter text2sql-mini-big"):
        fetch("text2sql-mini-big@best", clone / "none")


def test_best_goes_by_execution_accuracy_where_it_was_measured(store):
    def best():
        version = store.get_model_version_by_alias(MODEL, "best")
        return int(version.version), version.tags["best_by"]

    for number, (val_loss, accuracy, expected) in enumerate([
        (0.1, None, (1, "val_loss")),
        (0.5, 0.6, (2, "val_execution_accuracy")),
        (0.4, 0.5, (2, "val_execution_accuracy")),
        (0.3, 0.6, (2, "val_execution_accuracy")),
        (0.6, 0.7, (5, "val_execution_accuracy")),
    ]):  # fmt: skip
        measured = {} if accuracy is None else {"val_execution_accuracy": accuracy}
        train(f"f{number}", val_loss=val_loss, content=str(number), measured=measured)
        assert best() == expected


def test_models_rank_by_accuracy_and_versions_say_what_they_are(store):
    for number, accuracy in enumerate((0.4, 0.6, 0.5)):
        score(train(f"f{number}", content=str(number)), accuracy)
    group = store.get_experiment_by_name("text2sql").experiment_id
    order = [{"field_name": "metrics.execution_accuracy", "ascending": False}]
    models = store.search_logged_models([group], order_by=order)
    assert [{m.key: m.value for m in model.metrics}["execution_accuracy"] for model in models] == [0.6, 0.5, 0.4]
    scores = [(m.dataset_name, model.name) for model in models for m in model.metrics if m.key in track.SCORES.values()]
    assert scores == [("mini test", MODEL)] * 9
    assert models[0].params["train.learning_rate"] == "0.001"
    said = store.get_model_version(MODEL, "2").description
    assert "60.0 % of 1 test questions right (95 %: 10.0 to 70.0)**. tiny trained on mini" in said
    assert f'load_model("models:/{MODEL}/2")' in said


def test_the_same_training_with_other_bytes_is_another_version(store):
    """As another kind of processor makes them: each version keeps the score of its own answers."""
    for content, accuracy in (("one", 0.4), ("two", 0.6)):
        score(train("f", content=content), accuracy)
    versions = sorted(store.search_model_versions(f"name = '{MODEL}'"), key=lambda v: int(v.version))
    assert ["40.0 %" in versions[0].description, "60.0 %" in versions[1].description] == [True, True]
    assert len({v.tags["adapter_sha256"] for v in versions}) == len(versions) == 2


def test_losses_on_other_validation_answers_do_not_compete(store):
    train("f1", val_loss=0.3)
    (PROMPTS / "val.jsonl").write_text('{"id": "b", "completion": "SELECT 2"}\n')
    train("f2", val_loss=0.5, content="two")
    assert store.get_model_version_by_alias(MODEL, "best").version == 2


def test_an_adapter_whose_stored_files_changed_is_refused(store, clone):
    train()
    (stored,) = (clone / "mlruns" / "text2sql" / "models").rglob("*.safetensors")
    stored.write_text("changed")
    with pytest.raises(UserError, match="hash to"):
        fetch(f"{MODEL}/1", clone / "got")


def test_a_registered_model_that_is_no_adapter_is_refused(store, clone):
    import mlflow

    mlflow.set_experiment("elsewhere")
    mlflow.pyfunc.log_model(name="other", loader_module="json", registered_model_name="other", pip_requirements=[])
    with pytest.raises(UserError, match="other/1 of MLflow is no adapter"):
        fetch("other/1", clone / "got")
    assert not (clone / "got").exists()


def test_a_release_is_logged_with_its_adapter_and_no_other(store):
    digest = train()
    write_text(RELEASE / "README.md", "the card")
    write_json(RELEASE / "manifest.json", {"files": {"adapter_model.safetensors": "of another"}})
    score(digest)
    (run,) = runs(store)
    names = {a.path for a in store.list_artifacts(run.info.run_id)}
    assert not {"README.md", "manifest.json"} & names
    write_json(RELEASE / "manifest.json", {"files": sha256_tree(ADAPTER)})
    track.record(params())
    assert {"README.md", "manifest.json"} <= {a.path for a in store.list_artifacts(run.info.run_id)}


# --- One run an adapter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "status"), [(ValueError("diverged"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_ends_badly_is_marked_and_its_resumption_continues_it(store, error, status):
    def cut_off():
        with training_run("f1", params()) as run:
            for step in range(3):
                run.metrics({"loss/train_nats": loss(step)}, step=step)
            raise error

    with pytest.raises(type(error)):
        cut_off()
    (run,) = runs(store)
    assert run.info.status == status
    assert run.data.tags["error"].startswith(type(error).__name__)
    # The checkpoint was at step 1: step 2 is trained again, and is not recorded twice.
    train("f1", steps=range(5), recorded=range(2, 5))
    (resumed,) = runs(store)
    assert resumed.info.run_id == run.info.run_id
    assert resumed.info.status == "FINISHED"
    assert [step for step, _ in curve(store, resumed)] == [0, 1, 2, 3, 4]


def test_an_experiment_run_again_under_its_name_has_one_run(store, monkeypatch):
    """As it was killed after its training had ended, say. Under another name it is another experiment."""
    train()
    train()
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert len(curve(store, run)) == 3
    assert len(store.search_model_versions(f"name = '{MODEL}'")) == 1
    monkeypatch.setenv("DVC_EXP_NAME", "another")
    train()
    assert [run.info.run_name for run in runs(store)] == ["trunk", "another"]


def test_a_score_with_other_options_is_a_run_below(store):
    digest = train()
    score(digest, 0.4)
    score(digest, 0.4)
    score(digest, 0.5, predict__batch_size=8)
    score(digest, 0.5, predict__batch_size=8)
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
    (run,) = runs(store)
    assert run.info.run_name == "first"
    assert run.data.tags["experiments"] == "first, again"


def test_predictions_of_another_adapter_are_not_this_ones(store):
    train()
    score("0" * 64)
    (run,) = runs(store)
    assert "execution_accuracy" not in run.data.metrics


def test_a_training_that_makes_the_same_bytes_has_the_score_that_dvc_skips(store):
    """The score is in the workspace already; where predict and score have other options, their stage logs it again."""
    adapter = train("f1")
    score(adapter)
    train("f2")
    assert [run.data.metrics["execution_accuracy"] for run in runs(store)] == [0.4, 0.4]
    train("f3", predict__batch_size=8)
    score(adapter, 0.5, predict__batch_size=8)
    assert [run.data.metrics["execution_accuracy"] for run in runs(store)] == [0.4, 0.4, 0.5]


# --- MLflow away -----------------------------------------------------------------------------------------------------


def test_sync_logs_a_finished_run_once(store, capsys):
    """As after a training on a machine without MLflow."""
    score(train(tracking__kind="none"), tracking__kind="none")
    assert runs(store) == []
    write_json(Path("params.yaml"), params())
    main(["sync"])
    main(["sync"])
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert curve(store, run) == [(0, 1.0), (1, 0.5), (2, 0.3333)]
    assert (run.data.metrics["execution_accuracy"], run.data.metrics["loss/val_nats"]) == (0.4, 0.5)
    assert run.data.params["predict.batch_size"] == "16"
    assert len(store.search_model_versions(f"name = '{MODEL}'")) == 1
    assert f"runs/{run.info.run_id}" in capsys.readouterr().out


def test_scored_questions_as_traces(store, capsys):
    score(train())
    write_json(Path("params.yaml"), params())
    write_jsonl(PROMPTS / "test.jsonl", [{"id": "q", "prompt": "Question: How many?"}])
    main(["sync", "--traces"])
    main(["sync", "--traces"])
    assert [line for line in capsys.readouterr().out.splitlines() if "traced" in line] == [
        "1 questions traced", "0 questions traced",
    ]  # fmt: skip
    (run,) = runs(store)
    (trace,) = store.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    (span,) = trace.data.spans
    assert span.inputs == {"question": "How many?", "prompt": "Question: How many?"}
    assert span.outputs == {"sql": "SELECT 1"}
    assert {a.name: a.value for a in trace.info.assessments} == {
        "sql": "SELECT 1", "verdict_suite": True, "verdict_strict": True,
    }  # fmt: skip
    write_json(METRICS / "predict.json", {"adapter_sha256": "another"})
    with pytest.raises(SystemExit, match="no score of this adapter to trace"):
        main(["sync", "--traces"])


def test_sync_completes_a_run_that_was_cut_off(store, monkeypatch, capsys):
    """MLflow goes away in the middle: the training ends all the same, and the run is made whole afterwards."""
    real = track.Recorder.log_training

    def away(*_):
        raise ConnectionError("refused")

    monkeypatch.setattr(track.Recorder, "log_training", away)
    train()
    assert "python -m text2sql.track sync" in capsys.readouterr().err
    monkeypatch.setattr(track.Recorder, "log_training", real)
    (run,) = runs(store)
    write_json(Path("params.yaml"), params())
    main(["sync"])
    (whole,) = runs(store)
    assert whole.info.run_id == run.info.run_id
    assert len(curve(store, whole)) == 3
    assert whole.info.status == "FINISHED"


def test_sync_to_another_server_than_that_of_params(store, clone):
    """Also where the trainings here are not recorded."""
    score(train(tracking__kind="none"), tracking__kind="none")
    write_json(Path("params.yaml"), params(tracking__kind="none", tracking__uri="http://127.0.0.1:9"))
    main(["sync", "--uri", f"sqlite:///{clone / 'mlflow.db'}"])
    (run,) = runs(store)
    assert run.data.metrics["execution_accuracy"] == 0.4


@pytest.mark.parametrize(
    ("remove", "message"), [("models", "there is no models/adapter here"), ("kind", "tracking.kind is none")]
)
def test_sync_says_what_is_missing(clone, remove, message):
    if remove == "models":
        shutil.rmtree("models")
    write_json(Path("params.yaml"), params(tracking__kind="none" if remove == "kind" else "mlflow"))
    with pytest.raises(SystemExit, match=message):
        main(["sync"])


def test_an_unreachable_server_is_a_warning(store, clone, capsys):
    with socket.socket() as taken:  # bound, but not listening: refuses
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        score(train(tracking__uri=uri), tracking__uri=uri)
        assert "MLflow did not take it" in capsys.readouterr().err
    log_workspace(params(tracking__uri=f"sqlite:///{clone / 'mlflow.db'}"))
    (run,) = runs(store)
    assert len(curve(store, run)) == 3
    assert run.data.metrics["execution_accuracy"] == 0.4


def test_a_server_that_never_answers_is_left_after_seconds(clone, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        digest = train(tracking__uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert len(digest) == 64
    assert capsys.readouterr().err.count("MLflow did not take it") == 2  # at the start and at the end


def test_a_folder_that_cannot_be_written_does_not_stop_a_training(clone, capsys):
    Path("mlruns").write_text("in the way")
    assert len(train()) == 64
    assert "MLflow did not take it" in capsys.readouterr().err


def test_losses_that_a_locked_database_refused_are_in_the_run(clone, database, monkeypatch):
    """MLflow's threads give up on a batch when the database stays locked; at the end of the training it is free."""
    import mlflow.store.tracking.sqlalchemy_store as backend

    copy_database(database, clone)
    real, refused = backend.SqlAlchemyStore.log_batch, []

    def locked(self, run_id, metrics, params, tags):
        if threading.current_thread() is not threading.main_thread():
            refused.append(len(metrics))
            raise sqlite3.OperationalError("database is locked")
        return real(self, run_id, metrics, params, tags)

    monkeypatch.setattr(backend.SqlAlchemyStore, "log_batch", locked)
    train(steps=range(5))
    assert sum(refused) == 5
    client = registry.connect()
    (run,) = runs(client)
    assert [step for step, _ in curve(client, run)] == list(range(5))


def test_an_error_of_mlflow_ends_the_curves_and_no_training(store, monkeypatch, capsys):
    import mlflow

    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(mlflow, "log_metrics", broken)
    digest = train(steps=range(3))
    assert capsys.readouterr().err.count("a defect") == 1
    (run,) = runs(store)
    assert (run.data.tags["adapter_sha256"], run.info.status, len(curve(store, run))) == (digest, "FINISHED", 3)


def test_a_database_of_another_mlflow_is_left_alone(clone, database, capsys):
    copy_database(database, clone)
    with sqlite3.connect(clone / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'another'")
    train()
    assert "mlflow db upgrade" in capsys.readouterr().err
    with sqlite3.connect(clone / "mlflow.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("another",)


def test_a_data_set_that_another_process_records_at_once(store, monkeypatch):
    """MLflow looks whether it is there, then adds it, and fails if it came in between."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log_inputs, failures = MlflowClient.log_inputs, []

    def fails_once(client, run_id, datasets):
        name = datasets[0].dataset.name
        if name not in failures:
            failures.append(name)
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        return log_inputs(client, run_id, datasets)

    monkeypatch.setattr(MlflowClient, "log_inputs", fails_once)
    score(train("0"))
    (run,) = runs(store)
    assert "mini test" in failures
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == set(failures)
    assert run.data.metrics["execution_accuracy"] == 0.4


def test_sync_says_that_mlflow_is_away(clone):
    with socket.socket() as taken:  # bound, but not listening: refuses
        taken.bind(("127.0.0.1", 0))
        write_json(Path("params.yaml"), params(tracking__uri=f"http://127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(SystemExit, match=r"tracking: MLflow did not take it .*\n  -> "):
            main(["sync"])


# --- Names and files that are not as they should be ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["it's 50% of é", 'fix/a, "b"'])
def test_an_experiment_of_any_name_has_one_run(store, monkeypatch, name):
    """As branches and DVC's experiments may be called."""
    monkeypatch.setenv("DVC_EXP_NAME", name)
    score(train())
    train()
    (run,) = runs(store)
    assert (run.info.run_name, run.info.status, run.data.metrics["execution_accuracy"]) == (name, "FINISHED", 0.4)
    assert "experiments" not in run.data.tags


def test_data_of_any_name_are_registered_and_fetched(store, clone):
    adapter = train(data__name="a@b #1, 50% d'or/x:été")
    (registered,) = store.search_registered_models()
    assert fetch(f"{registered.name}@best", clone / "got") == adapter


@pytest.mark.parametrize("name", ["../c", "d'or/è \"#1 50%"])
def test_mlflows_experiment_has_any_name(store, clone, name):
    adapter = train(tracking__experiment=name)
    (run,) = runs(store, name)
    assert run.data.tags["adapter_sha256"] == adapter
    assert fetch(f"{MODEL}@best", clone / "got") == adapter
    assert [path.name for path in (clone / "mlruns").iterdir() if path.is_dir()], "the artifacts are below mlruns"


BROKEN = {
    METRICS / "train.json": "{",
    METRICS / "score.json": "[]",
    METRICS / "predict.json": "[]",
    PLOTS / "loss.csv": "step,train_loss\nx,y\n",
    PLOTS / "verdicts.csv": "id\nq\n",
    PREDICTIONS: '{"id": "q"}\n',
    RELEASE / "manifest.json": "{}",
}


def test_a_broken_file_is_a_warning_for_stages_and_a_sentence_for_sync(store, capsys):
    score(train())
    write_json(Path("params.yaml"), params())
    for path, broken in BROKEN.items():
        whole = path.read_text() if path.exists() else None
        write_text(path, broken)
        track.record(params())
        assert "tracking: " in capsys.readouterr().err
        with pytest.raises(SystemExit, match=r"tracking: .*(metrics|predictions|manifest\.json)"):
            main(["sync"])
        path.unlink() if whole is None else write_text(path, whole)
    main(["sync"])


@pytest.mark.parametrize(
    ("of", "where"), [(track.Recorder, "log"), (track.Recorder, "log_dataset"), (registry.Registry, "register")]
)
def test_a_defect_keeps_its_traceback_in_sync(store, monkeypatch, of, where):
    def defect(*_, **__):
        raise TypeError("of ours")

    score(train())
    write_json(Path("params.yaml"), params())
    monkeypatch.setattr(of, where, defect)
    with pytest.raises(TypeError, match="of ours"):
        main(["sync"])


@pytest.mark.parametrize("missing", ["metrics/train.json", "data", "metrics"])
def test_sync_logs_what_there_is(store, missing):
    """An adapter without half of its files, as a clone that pulled some has it."""
    adapter = train(tracking__kind="none")
    score(adapter, tracking__kind="none")
    shutil.rmtree(missing) if Path(missing).is_dir() else Path(missing).unlink()
    write_json(Path("params.yaml"), params())
    main(["sync"])
    main(["sync"])
    (run,) = runs(store)
    assert (run.data.tags["adapter_sha256"], run.info.status) == (adapter, "FINISHED")
    assert ("execution_accuracy" in run.data.metrics) == (missing == "metrics/train.json")
    (version,) = store.search_model_versions(f"name = '{MODEL}'")
    assert version.run_id == run.info.run_id


# --- Real processes --------------------------------------------------------------------------------------------------


def start(*arguments):
    """A training and its score (tests/track/worker.py) in a process and a copy of the clone of their own."""
    log = f"{arguments[0]}.log"
    return processes.start(["tests.track.worker", *map(str, arguments)], log, log)


def test_two_workers_on_a_fresh_database(clone):
    """Both make the database: one does, the other waits, and each ends with its own finished run."""
    workers = [start(name, 0, 8, "finish") for name in ("left", "right")]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0], [log.read_text() for log in clone.glob("*.log")]
    client = registry.connect()
    recorded = runs(client)
    assert sorted(r.data.tags["fingerprint"] for r in recorded) == ["left", "right"]
    assert {r.info.status for r in recorded} == {"FINISHED"}
    assert all(len(curve(client, r)) == 8 and r.data.metrics["execution_accuracy"] == 0.4 for r in recorded)
    assert all("system/cpu_utilization_percentage" in r.data.metrics for r in recorded)
    versions = client.search_model_versions(f"name = '{MODEL}'")
    assert {v.run_id for v in versions} == {r.info.run_id for r in recorded}


def test_two_processes_that_sync_one_adapter_at_once(store):
    score(train(tracking__kind="none"), tracking__kind="none")
    write_json(Path("params.yaml"), params())
    both = [processes.start(["text2sql.track", "sync"], f"{n}.log", f"{n}.log") for n in range(2)]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0], [Path(f"{n}.log").read_text() for n in range(2)]
    (run,) = runs(store)
    assert len(store.search_model_versions(f"name = '{MODEL}'")) == 1
    assert len(curve(store, run)) == 3


def test_a_killed_training_is_marked_by_the_next_and_continued(store, monkeypatch):
    worker = start("f1", 0, 5, "hang")
    log = Path("f1.log")
    until(lambda: (log.exists() and "trained" in log.read_text()) or not worker.is_alive())
    worker.kill()
    worker.join()
    monkeypatch.setenv("DVC_EXP_NAME", "another")
    train("f2", content="two")
    assert [run.info.status for run in runs(store)] == ["KILLED", "FINISHED"]
    monkeypatch.delenv("DVC_EXP_NAME")
    resumed = start("f1", 3, 8, "finish")
    resumed.join()
    assert resumed.exitcode == 0, log.read_text()
    first, _ = runs(store)
    assert first.info.status == "FINISHED"
    assert [step for step, _ in curve(store, first)] == list(range(8))


# --- Off, and beside ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rank"), [("none", "0"), ("mlflow", "1")])
def test_nothing_is_recorded_when_off_nor_by_the_second_process(clone, monkeypatch, kind, rank):
    monkeypatch.setenv("RANK", rank)
    train(tracking__kind=kind)
    assert not (clone / "mlruns").exists()


DATA_STAGES = ("source", "databases", "convert", "split", "base_model", "prompts", "release")
HEAVY = {"mlflow", "torch", "transformers", "trl", "peft", "gradio", "hydra"}


def test_data_stages_import_nothing_heavy():
    stages = ", ".join(f"stages.{name}" for name in DATA_STAGES)
    code = f"import sys, json, {stages}; print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert not HEAVY & set(json.loads(done.stdout))
