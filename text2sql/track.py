"""MLflow: one run for each adapter, with its training, its score and its release.

    with training_run(fingerprint) as run:      # stages/train.py: the curves, while the adapter is trained
        trainer.add_callback(run.callback(...))
    record()                                    # stages/score.py, stages/release.py: what the workspace has by now

A training never waits for MLflow and never fails because of it. MLflow's own threads send the curves; where the server
or the database is away, a warning says so. Everything else is read from the workspace (params.yaml, metrics/,
models/adapter, data/predictions) and logged into the run of that adapter, which is found by the adapter's hash: only
what the run lacks, so that logging twice changes nothing. So one command makes up for an MLflow that was away:

    python -m text2sql.track sync                       # the workspace's adapter, with curves, score and release
    python -m text2sql.track fetch NAME@best FOLDER     # a registered adapter back, compared with its hash
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from text2sql.config import read_params, require, section
from text2sql.errors import UserError
from text2sql.files import digest, read_json, read_jsonl, repository_root, sha256, sha256_tree, write_json

if typing.TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from transformers import TrainerCallback

ADAPTER = Path("models/adapter")
RELEASE = Path("models/release")
BASE = Path("models/base")
PROMPTS = Path("data/prompts")
SPLIT = Path("data/splits/test.jsonl")
PREDICTIONS = Path("data/predictions/test.jsonl")
METRICS = Path("metrics")
PLOTS = METRICS / "plots"
#: what a prompt file is to the adapter, in MLflow's words for a dataset
CONTEXTS = {"train": "training", "primer": "primer", "val": "validation"}
#: files that are laid beside an adapter's own, which its hash leaves out
BESIDE = {"README.md", "manifest.json"}
#: sections of params.yaml that decide the adapter, and those that decide its score
TRAINING_SECTIONS = ("seed", "data", "model", "quantization", "lora", "prompt", "train")
SCORING_SECTIONS = ("predict", "score")
#: figures of metrics/score.json that become metrics of the run and of its model, so that both rank by them
SCORES = ("execution_accuracy", "execution_accuracy_strict", "valid_sql")
#: the trainer's names of the curves, and ours; what else it logs are sums at the end, some under these names.
#: MLflow draws what has no slash first and folds the rest up by what is before it: the losses and scores are the story.
CURVES = {
    "loss": "train_loss",
    "eval_loss": "val_loss",
    "learning_rate": "training/learning_rate",
    "grad_norm": "training/grad_norm",
    "mean_token_accuracy": "training/token_accuracy",
    "eval_mean_token_accuracy": "training/val_token_accuracy",
    "epoch": "training/epoch",
}
LIBRARIES = ("mlflow", "torch", "transformers", "peft", "sqlglot")  # that loading a registered adapter needs
BEST = "best"  # the alias of the registered version with the least validation loss
#: seconds of one request, and how often it is tried again: MLflow's own 120 and 7 keep a stage up for a quarter hour
LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
SEND_EVERY = 5.0  # seconds between two batches of the curves: fewer than ten requests that time out can pile up
MOST = 800  # metrics of one request, of 1,000 that MLflow takes


@dataclass(frozen=True)
class Tracking:
    """conf/tracking: where experiments are recorded."""

    kind: Literal["mlflow", "none"]
    uri: str | None  # of a server; None: the database in the repository's root
    experiment: str  # MLflow's name of the group of runs
    system_seconds: float  # between two samples of processor, memory and GPU; 0: none

    def __post_init__(self) -> None:
        require(self.uri is None or "://" in self.uri, f"uri must be like http://host:5000, or null, not {self.uri!r}")
        require(self.system_seconds >= 0, f"system_seconds must be 0 or more, not {self.system_seconds}")
        require(bool(self.experiment.strip()), "experiment must not be empty")


def adapter_sha256(adapter: Path) -> str:
    """One hash of an adapter's files, by which its run is found."""
    files = {name: sum_ for name, sum_ in sha256_tree(adapter).items() if name not in BESIDE}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters by dotted names: {"train": {"epochs": 1.0}} -> {"train.epochs": "1.0"}."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return out


# --- The store -------------------------------------------------------------------------------------------------------


def connect(uri: str | None = None) -> MlflowClient:
    """A client of the server `uri`, or of the database that `mlflow ui` opens in the repository's root.

    Raises:
        MlflowException: the server does not answer, or the database is of a newer MLflow.
    """
    for name, value in (LIMITS | QUIET).items():
        os.environ.setdefault(name, value)
    if uri is None:
        return _open_database(repository_root() / "mlflow.db")
    client = _client(uri)
    client.search_experiments(max_results=1)
    return client


def _client(address: str) -> MlflowClient:
    import mlflow

    # Registering a model looks its files up by the global address, whatever the client's is.
    mlflow.set_tracking_uri(address)
    return mlflow.MlflowClient(address, address)


def _open_database(path: Path) -> MlflowClient:
    """A client of the local database, which the first process makes and the first of a new MLflow migrates.

    `mlruns/.database` names the MLflow that the database was opened with last, and is the lock that makes the other
    processes wait. A migration keeps a copy.
    """
    import mlflow

    address, mark = f"sqlite:///{path}", path.parent / "mlruns" / ".database"
    mark.parent.mkdir(exist_ok=True)
    with mark.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read() != mlflow.__version__:
            if path.exists():
                _migrate(path, address)
            client = _client(address)
            lock.truncate(0)
            lock.write(mlflow.__version__)
            return client
    return _client(address)


def _migrate(path: Path, address: str) -> None:
    copy = path.with_name(f"{path.name}.{time.strftime('%Y-%m-%dT%H-%M-%S')}.bak")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", address]
    done = subprocess.run(upgrade, capture_output=True, text=True, check=False)
    if done.returncode:
        copy.unlink()
        what = f"{path} is not of this MLflow: {done.stderr.strip().splitlines()[-1]}"
        raise UserError(what, "install the version that wrote it, or move the file away")
    _say(f"{path} was of another MLflow: migrated, with a copy in {copy}")


def _experiment(client: MlflowClient, settings: Tracking) -> str:
    """The id of MLflow's experiment, with its files in the repository's root also when this runs in a copy."""
    from mlflow.exceptions import MlflowException

    name = settings.experiment
    existing = client.get_experiment_by_name(name)
    if existing is None:
        location = None if settings.uri else str(repository_root() / "mlruns" / name)
        try:
            return client.create_experiment(name, location, {"mlflow.experimentKind": "custom_model_development"})
        except MlflowException:  # another process was quicker
            if (existing := client.get_experiment_by_name(name)) is None:
                raise
    if existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    return existing.experiment_id


def _search(client: MlflowClient, group: str, /, **tags: str) -> list[Run]:
    """Runs with these tags, newest first."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([group], query, order_by=["attributes.start_time DESC"]))


def _log(client: MlflowClient, run_id: str, params: Mapping[str, str] | None = None, **tags: str) -> None:
    """Parameters, as far as MLflow has not another value already (which it refuses to change), and tags."""
    from mlflow.entities import Param, RunTag

    there = client.get_run(run_id).data.params if params else {}
    new = [Param(name, value[:6000]) for name, value in (params or {}).items() if name not in there]
    changed = {f"changed.{n}": v for n, v in (params or {}).items() if n in there and there[n] != v[:6000]}
    client.log_batch(run_id, params=new, tags=[RunTag(n, v[:5000]) for n, v in (tags | changed).items()])


def _log_metrics(client: MlflowClient, run_id: str, points: list[Metric]) -> None:
    for start in range(0, len(points), MOST):
        client.log_batch(run_id, points[start : start + MOST])


def _points(values: Mapping[str, float], step: int = 0, **belongs_to: str) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, **belongs_to) for name, value in values.items()]


# --- What and where this is ------------------------------------------------------------------------------------------


def _identity() -> dict[str, str]:
    """Which experiment on which commit this is, as DVC tells its stages, or as git has it outside of DVC."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "none"
    return {
        "experiment": os.environ.get("DVC_EXP_NAME") or git("symbolic-ref", "--short", "HEAD") or "workspace",
        "base_revision": os.environ.get("DVC_EXP_BASELINE_REV") or commit,
        "git_commit": commit,
        "stage": os.environ.get("DVC_STAGE", "outside of DVC"),
    }


def _inputs() -> dict[str, str]:
    """`input.PATH` -> hash in dvc.lock of each input of the stage that runs.

    DVC has written the lock entries of the stages before this one when it starts this one. Outside of DVC nothing
    vouches for the lock file, and nothing is claimed.
    """
    from omegaconf import OmegaConf

    stage = os.environ.get("DVC_STAGE")
    if not stage or not Path("dvc.lock").exists():
        return {}
    pipeline: Any = OmegaConf.to_container(OmegaConf.load("dvc.yaml"))
    lock: Any = OmegaConf.to_container(OmegaConf.load("dvc.lock"))
    hashes = {out["path"]: out.get("md5", "") for s in lock["stages"].values() for out in s.get("outs", [])}
    deps = pipeline["stages"].get(stage, {}).get("deps", [])
    return {f"input.{dep}": hashes[dep] for dep in deps if dep in hashes}


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _mark_killed(client: MlflowClient, group: str) -> None:
    """Runs that a `kill -9` left as running: their process on this machine is gone."""
    for run in client.search_runs([group], "attributes.status = 'RUNNING'"):
        host, _, number = run.data.tags.get("process", "").partition(":")
        if host == socket.gethostname() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            client.set_terminated(run.info.run_id, "KILLED")


def _create(client: MlflowClient, group: str, params: Mapping[str, Any], **tags: str) -> str:
    """A new run under the experiment's name; its id."""
    names = {"dataset": params["data"]["name"], "model": params["model"]["name"]}
    identity = _identity()
    tags = {**identity, **names, **_inputs(), **tags}
    return client.create_run(group, tags=tags, run_name=identity["experiment"]).info.run_id


# --- While the adapter is trained ------------------------------------------------------------------------------------


class TrainingRun:
    """The curves of a training, into MLflow or (`client` is None: off, or away) nowhere. No method raises."""

    def __init__(
        self, client: MlflowClient | None = None, run_id: str = "", last: Mapping[str, int] | None = None
    ) -> None:
        self._client, self.run_id = client, run_id
        #: the last step of each curve: a training that resumes from a checkpoint repeats the steps since
        self._last = dict(last or {})
        self._waiting: list[Metric] = []
        self._sent: list[tuple[Any, list[Metric]]] = []
        self._due = 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves at a step; a step that the run has already stays as it is."""
        new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
        if self._client is None or not new:
            return
        self._last |= dict.fromkeys(new, step)
        self._waiting += _points(new, step)
        if time.monotonic() >= self._due:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            operation = self._client.log_batch(self.run_id, self._waiting, synchronous=False)
            self._sent.append((operation, self._waiting))
        self._waiting, self._due = [], time.monotonic() + SEND_EVERY

    def flush(self) -> None:
        """Wait until MLflow has the curves; what could not be sent before (a locked database) is sent once more.

        Raises:
            MlflowException: it still cannot be sent.
        """
        if self._client is None:
            return
        from mlflow.exceptions import MlflowException

        self._send()
        failed: list[Metric] = []
        for operation, points in self._sent:
            try:
                operation.wait()
            except MlflowException:
                failed += points
        self._sent = []
        _log_metrics(self._client, self.run_id, failed)

    def callback(self, examples: int, memory_bytes: Callable[[], int]) -> TrainerCallback:
        """The curves of a transformers Trainer, with speed and memory.

        Args:
            examples: of one pass, for the examples a second.
            memory_bytes: the most memory taken so far.
        """
        from transformers import TrainerCallback

        run = self

        class Curves(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.last = (time.perf_counter(), state.epoch or 0.0)

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                named = {CURVES[name]: value for name, value in (logs or {}).items() if name in CURVES}
                if "train_loss" in named:
                    (before, done), self.last = self.last, (time.perf_counter(), state.epoch)
                    named["training/examples_per_second"] = (state.epoch - done) * examples / (self.last[0] - before)
                    named["training/memory_bytes"] = memory_bytes()
                run.metrics(named, step=state.global_step)

        return Curves()


@contextlib.contextmanager
def training_run(fingerprint: str, params: dict[str, Any] | None = None) -> Iterator[TrainingRun]:
    """Record a training into the run of the adapter that it makes; at its end the workspace has that adapter.

    Args:
        fingerprint: a hash of all that decides the adapter (configuration, data, code). A training with the
            fingerprint of one that was cut off continues that run.
        params: params.yaml, read if not given.
    """
    params = read_params() if params is None else params
    settings = section(Tracking, "tracking", params)
    # With several processes (torchrun) the first one records for all.
    if settings.kind == "none" or os.environ.get("RANK", "0") != "0":
        yield TrainingRun()
        return
    run, status, monitor, error = TrainingRun(), "FAILED", None, ""
    with _warned():
        run, monitor = _begin(settings, fingerprint, params)
    try:
        with _terminated_as_interrupt():
            yield run
        status = "FINISHED"
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        status = "KILLED" if isinstance(raised, KeyboardInterrupt | SystemExit) else "FAILED"
        raise
    finally:
        with _warned():
            if monitor:
                monitor.finish()
            run.flush()
            if status == "FINISHED":
                _say(f"`mlflow ui` shows this run at {log_workspace(params, run_id=run.run_id or None)}")
            elif run._client:
                _log(run._client, run.run_id, error=error)
                run._client.set_terminated(run.run_id, status)


def _begin(settings: Tracking, fingerprint: str, params: dict[str, Any]) -> tuple[TrainingRun, Any]:
    """The run of this experiment and fingerprint (killed before, or trained again), or a new one; its monitor."""
    client = connect(settings.uri)
    group = _experiment(client, settings)
    _mark_killed(client, group)
    same = _search(client, group, fingerprint=fingerprint, experiment=_identity()["experiment"])
    last: dict[str, int] = {}
    if same:
        run_id = same[0].info.run_id
        histories = {name: client.get_metric_history(run_id, name) for name in same[0].data.metrics}
        last = {name: max(point.step for point in points) for name, points in histories.items()}
        client.update_run(run_id, status="RUNNING")
    else:
        run_id = _create(client, group, params, fingerprint=fingerprint)
    parameters = flat({key: params[key] for key in TRAINING_SECTIONS if key in params})
    _log(client, run_id, parameters, process=_process())
    return TrainingRun(client, run_id, last), _monitor(settings, run_id, bool(same))


def _monitor(settings: Tracking, run_id: str, resumed: bool) -> Any:
    """MLflow's thread that samples processor, memory, disk, network and GPU."""
    import mlflow
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not settings.system_seconds:
        return None
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it announces its start and its end
    uri = mlflow.get_tracking_uri()
    monitor = SystemMetricsMonitor(run_id, settings.system_seconds, resume_logging=resumed, tracking_uri=uri)
    monitor.start()
    return monitor


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Whatever MLflow cannot do is a warning: no training, score or release is lost for want of its record."""
    try:
        yield
    except Exception as error:
        what = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        _say(f"MLflow is away ({type(error).__name__}: {what})")
        print(
            "  -> `python -m text2sql.track sync` logs what is here now when MLflow is back",
            file=sys.stderr,
            flush=True,
        )


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block by SystemExit, so that the run is marked; somebody else's handler is left alone."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# --- What the workspace has ------------------------------------------------------------------------------------------


def record(params: dict[str, Any] | None = None) -> str | None:
    """Log what the workspace has of its adapter, for a stage at its end: see `log_workspace`. Never raises.

    Returns:
        The address of the run in the user interface; None if it is not recorded, or MLflow is away.
    """
    params = read_params() if params is None else params
    # Predictions that came from elsewhere have no adapter, and no run.
    if ADAPTER.is_dir() and section(Tracking, "tracking", params).kind == "mlflow":
        with _warned():
            return log_workspace(params)
    return None


def log_workspace(params: dict[str, Any], run_id: str | None = None, uri: str | None = None) -> str:
    """Log what the run of the workspace's adapter lacks: parameters, curves, figures, files, the registered version.

    Args:
        run_id: the run, if it is known; otherwise the one with the adapter's hash, or a new one.
        uri: a server other than that of params.yaml.

    Returns:
        The address of the adapter's run in the user interface.
    """
    settings = section(Tracking, "tracking", params)
    client = connect(uri or settings.uri)
    group = _experiment(client, settings)
    adapter = adapter_sha256(ADAPTER)
    run_id = run_id or _run_of(client, group, adapter, params)
    _log(client, run_id, flat({key: params[key] for key in TRAINING_SECTIONS if key in params}), adapter_sha256=adapter)
    _log_training(client, group, run_id, adapter, params)
    target = run_id
    if is_scored(adapter, params):
        target = _scoring_run(client, group, run_id, params)
        _log_score(client, target, params)
    if is_released():
        for name in sorted(BESIDE):
            client.log_artifact(target, str(RELEASE / name))
    for finished in {run_id, target}:
        if client.get_run(finished).info.status != "FINISHED":
            client.set_terminated(finished, "FINISHED")
    # `mlflow ui` opens a page on agents: this one has the run, and the way to all others.
    return f"{uri or settings.uri or 'http://127.0.0.1:5000'}/#/experiments/{group}/runs/{run_id}"


def is_scored(adapter: str, params: dict[str, Any]) -> bool:
    """Whether predictions and score in the workspace are those of this adapter, which metrics/predict.json names.

    A training may make the same bytes again, after which DVC skips predict and score: unless their options changed.
    """
    predicted = METRICS / "predict.json"
    needed = (predicted, SPLIT, PREDICTIONS, METRICS / "score.json", PLOTS / "verdicts.csv")
    if not all(path.exists() for path in needed) or read_json(predicted).get("adapter_sha256") != adapter:
        return False
    if os.environ.get("DVC_STAGE") != "train":
        return True
    from omegaconf import OmegaConf

    lock: Any = OmegaConf.to_container(OmegaConf.load("dvc.lock"))
    used = flat({k: v for name in SCORING_SECTIONS for k, v in lock["stages"][name]["params"]["params.yaml"].items()})
    return used.items() <= flat(params).items()


def is_released() -> bool:
    """Whether models/release is the release of the workspace's adapter."""
    manifest, weights = RELEASE / "manifest.json", ADAPTER / "adapter_model.safetensors"
    return manifest.exists() and read_json(manifest)["files"].get(weights.name) == sha256(weights)


def _run_of(client: MlflowClient, group: str, adapter: str, params: dict[str, Any]) -> str:
    """The run of the adapter, of this experiment if there are several; one whose end was lost; or a new one.

    An adapter that another experiment made and DVC restored from its cache: its run then names both experiments.
    """
    name = _identity()["experiment"]
    runs = [r for r in _search(client, group, adapter_sha256=adapter) if "mlflow.parentRunId" not in r.data.tags]
    if runs:
        run = max(runs, key=lambda run: run.info.run_name == name)
        known = run.data.tags.get("experiments", run.info.run_name).split(", ")
        if name not in known:
            _log(client, run.info.run_id, experiments=", ".join([*known, name]))
        return run.info.run_id
    fingerprint = _figures("train.json").get("fingerprint")
    if fingerprint and (cut_off := _search(client, group, fingerprint=fingerprint, experiment=name)):
        return cut_off[0].info.run_id
    return _create(client, group, params, **({"fingerprint": fingerprint} if fingerprint else {}))


def _figures(name: str) -> dict[str, Any]:
    path = METRICS / name
    return read_json(path) if path.exists() else {}


def _log_training(client: MlflowClient, group: str, run_id: str, adapter: str, params: dict[str, Any]) -> None:
    """Curves, figures and data sets of the training, and the adapter as a registered version."""
    curves: dict[str, dict[int, float]] = {}
    if (path := PLOTS / "loss.csv").exists():
        with path.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for name in ("train_loss", "val_loss"):
                    if row[name]:
                        curves.setdefault(name, {})[int(row["step"])] = float(row[name])
    points = []
    for name, curve in curves.items():
        there = {point.step for point in client.get_metric_history(run_id, name)}
        points += [p for step, value in curve.items() if step not in there for p in _points({name: value}, step)]
    train = _figures("train.json")
    numbers = {name: value for name, value in train.items() if isinstance(value, int | float)}
    # A figure that has a curve too is left out: MLflow shows the curve's last point under its name.
    named = {
        n if n in ("train_loss", "val_loss") else f"training/{n}": v for n, v in numbers.items() if n not in curves
    }
    points += _new(client, run_id, named)
    _log_metrics(client, run_id, points)
    for name, context in CONTEXTS.items():
        _log_dataset(client, run_id, PROMPTS / f"{name}.jsonl", f"{params['data']['name']} {name}", context)
    _register(client, group, run_id, adapter, params, train.get("val_loss"))


def _new(client: MlflowClient, run_id: str, values: Mapping[str, float], **belongs_to: str) -> list[Metric]:
    """Points of the figures that the run does not have, or has otherwise."""
    there = client.get_run(run_id).data.metrics
    return _points({name: value for name, value in values.items() if there.get(name) != value}, **belongs_to)


def _log_dataset(client: MlflowClient, run_id: str, path: Path, name: str, context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if path.exists():
        sum_, rows = sha256(path), sum(1 for _ in read_jsonl(path))
        profile, source = json.dumps({"num_rows": rows, "sha256": sum_}), json.dumps({"uri": path.as_posix()})
        dataset = Dataset(name, sum_[:36], "local", source, profile=profile)
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


def _register(
    client: MlflowClient, group: str, run_id: str, adapter: str, params: dict[str, Any], val_loss: float | None
) -> None:
    """The adapter as a model of the run and as a version of `text2sql-DATA-MODEL`, once; and the alias `best`."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    name = _registered(params)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    validation = _validation_sha256()
    if not any(version.run_id == run_id for version in versions):
        tags = {"adapter_sha256": adapter, "validation": validation}
        tags |= {"val_loss": repr(val_loss)} if val_loss is not None else {}
        trained = flat({key: params[key] for key in TRAINING_SECTIONS if key in params})
        model = client.create_logged_model(group, name, run_id, tags, trained, "text-to-sql")
        with tempfile.TemporaryDirectory() as scratch:
            client.log_model_artifacts(model.model_id, str(_packaged(Path(scratch), params)))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        source = f"models:/{model.model_id}"
        versions.append(client.create_model_version(name, source, run_id, tags, model_id=model.model_id))
    # Losses compare only where the validation answers are the same.
    rated = [v for v in versions if v.tags.get("validation") == validation and "val_loss" in v.tags]
    if rated:
        best = min(rated, key=lambda version: (float(version.tags["val_loss"]), int(version.version)))
        client.set_registered_model_alias(name, BEST, best.version)


def _registered(params: dict[str, Any]) -> str:
    return f"text2sql-{params['data']['name']}-{params['model']['name']}"


def _packaged(folder: Path, params: dict[str, Any]) -> Path:
    """The adapter as `mlflow.pyfunc` loads it: with its recipe, signature and the code that asks it."""
    from importlib.metadata import version

    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    adapter = folder / "adapter"
    shutil.copytree(ADAPTER, adapter)
    # As in a release: what the adapter was trained on and how it is to be asked (text2sql/ask/locate.py).
    made_of = {BASE.as_posix(): digest(BASE)} if BASE.is_dir() else {}
    recipe = {key: params[key] for key in (*TRAINING_SECTIONS, *SCORING_SECTIONS) if key in params}
    write_json(adapter / "manifest.json", {"made_of": made_of, "params": recipe})
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    # MLflow asks for type hints, with which one dict could not stand for a row, and overrides filters of warnings.
    with contextlib.redirect_stderr(io.StringIO()):
        save_model(
            folder / "model",
            python_model=str(Path(__file__).parent / "ask" / "mlflow_model.py"),
            artifacts={"adapter": str(adapter)},
            signature=ModelSignature(
                Schema([ColSpec("string", "question"), ColSpec("string", "schema")]), Schema([ColSpec("string")])
            ),
            input_example={
                "question": "How many customers are there?",
                "schema": "CREATE TABLE customers (id integer)",
            },
            pip_requirements=[f"{name}=={version(name)}" for name in LIBRARIES],
        )
    return folder / "model"


def _validation_sha256() -> str:
    """A hash of the validation answers, whatever the prompt; empty where there are none."""
    path = PROMPTS / "val.jsonl"
    answers = [(row["id"], row.get("completion")) for row in read_jsonl(path)] if path.exists() else []
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest() if answers else ""


def _scoring_run(client: MlflowClient, group: str, run_id: str, params: dict[str, Any]) -> str:
    """The adapter's run, or, where that is scored with other options, a run below it; with the options."""
    options = flat({key: params[key] for key in SCORING_SECTIONS if key in params})
    first = client.get_run(run_id)
    children = _search(client, group, **{"mlflow.parentRunId": run_id})
    for run in (first, *children):
        if all(run.data.params.get(name, value) == value for name, value in options.items()):
            _log(client, run.info.run_id, options)
            return run.info.run_id
    tags = {"mlflow.parentRunId": run_id, "adapter_sha256": first.data.tags["adapter_sha256"]}
    child = _create(client, group, params, **tags)
    _log(client, child, {**first.data.params, **options})
    return child


def _log_score(client: MlflowClient, run_id: str, params: dict[str, Any]) -> None:
    """Accuracy overall and by hardness, the plots, and every prediction with its verdict as a table."""
    score, data = _figures("score.json"), f"{params['data']['name']} test"
    figures = {name: score[name] for name in SCORES}
    further = {"score/questions": score["n"], "score/excluded": score["excluded"]}
    further |= {f"score/{level}": part["execution_accuracy"] for level, part in score["by_hardness"].items()}
    name, belongs_to = _registered(params), {}
    # A run below, with other options of predict and score, has no model: the model's figures are those of its run.
    for version in [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run_id]:
        client.update_model_version(name, version.version, _description(score, params, version.version))
        # By these the Models page and `search_logged_models` rank.
        model = version.source.removeprefix("models:/")
        belongs_to = {"model_id": model, "dataset_name": data, "dataset_digest": sha256(SPLIT)[:36]}
    _log_metrics(client, run_id, _new(client, run_id, figures, **belongs_to) + _new(client, run_id, further))
    _log(client, run_id, **{"mlflow.note.content": _description(score, params)})
    _log_dataset(client, run_id, SPLIT, data, "test")
    with (PLOTS / "verdicts.csv").open(encoding="utf-8") as lines:
        verdicts = {row["id"]: row for row in csv.DictReader(lines)}
    asked = ("id", "db_id", "question", "gold", "predicted")
    judged = ("hardness", "verdict_suite", "verdict_strict", "reason")
    rows = [
        [row[name] for name in asked] + [verdicts[row["id"]][name] for name in judged]
        for row in read_jsonl(PREDICTIONS)
        if row["id"] in verdicts
    ]
    client.log_dict(run_id, {"columns": [*asked, *judged], "data": rows}, "predictions.json")
    # By this tag the user interface shows the file as a table.
    _log(client, run_id, **{"mlflow.loggedArtifacts": json.dumps([{"path": "predictions.json", "type": "table"}])})
    client.log_artifacts(run_id, str(PLOTS), PLOTS.name)


def _description(score: Mapping[str, Any], params: dict[str, Any], version: str | None = None) -> str:
    """What the adapter is, how good it is, and what to type, in Markdown."""
    low, high = score["ci95"]
    accuracy = f"{100 * score['execution_accuracy']:.1f} % of {score['n']} test questions right"
    interval = f"95 %: {100 * low:.1f} to {100 * high:.1f}"
    said = f"**{accuracy}** ({interval}). {params['model']['name']} trained on {params['data']['name']}."
    if version is None:
        return said
    address = f"models:/{_registered(params)}/{version}"
    code = f'mlflow.pyfunc.load_model("{address}").predict({{"question": "...", "schema": "CREATE TABLE ..."}})'
    return f"{said}\n\n```python\n{code}\n```\n```sh\ntext2sql ask --model {address} --schema shop.sql\n```"


# --- Getting an adapter back -----------------------------------------------------------------------------------------


def fetch(name: str, target: Path, uri: str | None = None) -> str:
    """Download the adapter registered as `name` (`text2sql-mini-tiny@best`, or `.../3` for a version) into `target`.

    Returns:
        Its hash, which has been compared with the files.

    Raises:
        UserError: there is no such version, its files have changed, or MLflow is away.
    """
    client = connect(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    model, _, alias = name.partition("@")
    model, _, number = model.partition("/")
    try:
        if number:
            version = client.get_model_version(model, number)
        else:
            version = client.get_model_version_by_alias(model, alias or BEST)
    except MlflowException as error:
        known = ", ".join(m.name for m in client.search_registered_models()) or "none"
        raise UserError(f"no registered adapter {name}: {error.message}", f"registered: {known}") from None
    with tempfile.TemporaryDirectory() as scratch:
        download_artifacts(f"models:/{version.name}/{version.version}", dst_path=scratch)
        (weights,) = Path(scratch).rglob("adapter_model.safetensors")
        shutil.copytree(weights.parent, target, dirs_exist_ok=True)
    sum_, expected = adapter_sha256(target), version.tags["adapter_sha256"]
    if sum_ != expected:
        what = f"the files of {name} in {target} hash to {sum_}, not {expected}"
        raise UserError(what, "they were changed: train again")
    return sum_


def sync(uri: str | None = None) -> str:
    """`log_workspace` for people.

    Raises:
        UserError: there is nothing to log, or nowhere to.
    """
    params = read_params()
    if not ADAPTER.is_dir():
        raise UserError(f"there is no {ADAPTER} here", "`make repro` trains it, `dvc exp apply NAME` brings it back")
    if section(Tracking, "tracking", params).kind == "none" and uri is None:
        raise UserError("tracking.kind is none", "name a server with --uri, or `text2sql params` with tracking=local")
    address = log_workspace(params, uri=uri)
    if not is_scored(adapter_sha256(ADAPTER), params):
        _say(f"{METRICS / 'score.json'} is not of this adapter and was left out: `dvc repro score`")
    return address


def main(arguments: list[str] | None = None) -> None:
    """`python -m text2sql.track sync | fetch NAME FOLDER`."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m text2sql.track", description="the record of adapters in MLflow")
    commands = parser.add_subparsers(dest="command", required=True)
    fetched = commands.add_parser("fetch", help="download a registered adapter")
    fetched.add_argument("name", help="like text2sql-mini-smollm2-135m@best, or .../3 for a version")
    fetched.add_argument("target", type=Path, help="the folder to put it in")
    synced = commands.add_parser("sync", help="log the workspace's adapter, with curves, score and release")
    for command in (fetched, synced):
        command.add_argument("--uri", help="an MLflow server other than that of params.yaml")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "sync":
            print(f"the run of {ADAPTER}: {sync(chosen.uri)}")
        else:
            print(f"{chosen.target}: {fetch(chosen.name, chosen.target, chosen.uri)}")
    except UserError as error:
        sys.exit(f"tracking: {error}")


if __name__ == "__main__":
    main()
