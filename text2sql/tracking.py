"""The record of experiments: what a training or a scoring did, written so that it cannot be lost.

A stage never talks to MLflow. It appends to a journal in the repository's root (`mlruns/.journal/`, also when the stage
runs in a queue worker's copy) and a separate process, `text2sql.mlflow_store`, sends the journal on to MLflow and
deletes it. So training neither waits for tracking nor depends on it: a server that is down, a database that is locked
or a process that is killed leave a journal behind, which the next run or `python -m text2sql.tracking sync` sends.

    with training_run(fingerprint) as run:              # stages/train.py
        trainer.add_callback(run.callback())
        ...
        run.metrics({"val_loss": 0.7})
        run.adapter(Path("models/adapter"), val_loss=0.7)

    with scoring_run(adapter_sha256(Path("models/adapter"))) as run:   # stages/score.py: the same MLflow run
        run.metrics({"execution_accuracy": 0.4})
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import typing
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, TextIO

from text2sql.config import read_params, require, section
from text2sql.errors import UserError
from text2sql.files import read_json, read_jsonl, repository_root, sha256, sha256_tree

if typing.TYPE_CHECKING:
    from transformers import TrainerCallback

# Seconds that a stage waits at its end for the sender, which has seconds of work (importing MLflow) unless the store is
# slow, the adapter large or the machine busy.
PATIENCE = 20.0
# What decides the adapter, and so is logged when it is trained; the rest is logged when it is scored.
TRAINING_SECTIONS = ("seed", "data", "model", "quantization", "lora", "prompt", "train")
SCORING_SECTIONS = ("predict", "score")
# The trainer's names of the curves, and ours. What else it logs are sums at the end, some under these names.
CURVES = {
    "loss": "train_loss",
    "eval_loss": "val_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "eval_mean_token_accuracy": "val_token_accuracy",
    "epoch": "epoch",
}


@dataclass(frozen=True)
class Tracking:
    """conf/tracking: where experiments are recorded."""

    kind: Literal["mlflow", "none"]
    uri: str | None  # of a server; None: the database in the repository's root
    experiment: str  # MLflow's name of the group of runs
    system_seconds: float  # between two samples of processor, memory and GPU; 0: none
    tensorboard: bool

    def __post_init__(self) -> None:
        require(self.uri is None or "://" in self.uri, f"uri must be like http://host:5000, or null, not {self.uri!r}")
        require(self.system_seconds >= 0, f"system_seconds must be 0 or more, not {self.system_seconds}")
        require(bool(self.experiment.strip()), "experiment must not be empty")


def journals() -> Path:
    """The folder of the journals that are not wholly sent yet."""
    return repository_root() / "mlruns" / ".journal"


def adapter_sha256(adapter: Path) -> str:
    """One hash of an adapter's files, by which its run is found again."""
    listing = json.dumps(sha256_tree(adapter), sort_keys=True)
    return hashlib.sha256(listing.encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters by dotted names: {"train": {"epochs": 1.0}} -> {"train.epochs": "1.0"}."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return out


# --- The journal -----------------------------------------------------------------------------------------------------


class Journal:
    """What one run has recorded: `events.jsonl`, the files it logs, and how far MLflow has got (`state.json`).

    Two locks, which the system frees when a process dies: `owner` is held by the stage as long as it runs, `sender` by
    whoever sends the journal to MLflow.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events_file = folder / "events.jsonl"
        self.state_file = folder / "state.json"
        self.files = folder / "files"

    def lock(self, name: Literal["owner", "sender"], wait: float = 0.0) -> TextIO | None:
        """The lock, held until the returned file is closed; None if another process has it after `wait` seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stream = (self.folder / name).open("a")
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return stream
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    stream.close()
                    return None
                time.sleep(0.1)

    def append(self, do: str, **fields: Any) -> None:
        """Add one event; the line is whole or absent also when two processes write."""
        line = json.dumps({"do": do, "time": int(time.time() * 1000), **fields}, ensure_ascii=False) + "\n"
        descriptor = os.open(self.events_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        return list(read_jsonl(self.events_file)) if self.events_file.exists() else []

    def state(self) -> dict[str, Any]:
        """`sent` (number of events that MLflow has) and `run_id`."""
        return read_json(self.state_file) if self.state_file.exists() else {"sent": 0, "run_id": None}

    def keep(self, source: Path) -> str:
        """Copy a file or folder into the journal, as it may have changed when it is sent; returns its name there."""
        self.files.mkdir(exist_ok=True)
        name = next(str(n) for n in count() if not (self.files / str(n)).exists())
        target = self.files / name / source.name
        target.parent.mkdir()
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        return f"{name}/{source.name}"

    def status(self) -> str | None:
        """How the run ended: FINISHED, FAILED or KILLED; None if it runs, or was cut off."""
        last = next((e for e in reversed(self.events()) if e["do"] in ("start", "end")), {"do": "start"})
        return last["status"] if last["do"] == "end" else None


def _open(name: str) -> tuple[Journal, TextIO]:
    """The journal of that name, taken over from a run that did not finish; else a new one, with its lock."""
    for n in count(1):
        journal = Journal(journals() / (name if n == 1 else f"{name}-{n}"))
        lock = journal.lock("owner", wait=1.0)
        if lock and journal.status() != "FINISHED":
            return journal, lock
        if lock:
            lock.close()
    raise AssertionError("unreachable")


# --- What a stage uses -----------------------------------------------------------------------------------------------


class Recorder:
    """Records into a journal, into TensorBoard's files, or nowhere.

    No method raises when the journal cannot be written (full disk, read-only folder): that is said once, and the
    training goes on.
    """

    def __init__(self, journal: Journal | None, tensorboard: Path | None = None, registered: str = "") -> None:
        self.journal = journal
        self.registered = registered
        self._validation: str | None = None
        self._seen = {
            (name, event["step"])
            for event in (journal.events() if journal else [])
            if event["do"] == "metrics" and event["step"] is not None
            for name in event["values"]
        }
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers, at a step of a curve or for the run as a whole.

        A training that resumes from a checkpoint repeats the steps since; what is recorded of them already stays. A
        number for the whole run that has a curve too is left out: MLflow shows the curve's last value.
        """
        curves = set() if step is not None else {name for name, _ in self._seen}
        new = {k: float(v) for k, v in values.items() if self._is_new(k, step, curves)}
        if new:
            self._append("metrics", values=new, step=step)
        if step is not None:
            self._seen |= {(name, step) for name in new}
            if self._writer:
                for name, value in new.items():
                    self._writer.add_scalar(name, value, step)

    def _is_new(self, name: str, step: int | None, curves: set[str]) -> bool:
        return name not in curves if step is None else (name, step) not in self._seen

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters, nested or flat."""
        self._append("params", values=flat(values))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags of the run."""
        self._append("tags", values={k: str(v) for k, v in values.items()})

    def artifact(self, path: Path) -> None:
        """A file or a folder, under its own name."""
        self._append("artifact", keep=path)

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows with the same keys, as a table that MLflow shows; `name` ends in .json."""
        columns = list(rows[0]) if rows else []
        self._append("table", name=name, columns=columns, data=[[row[c] for c in columns] for row in rows])

    def dataset(self, path: Path, context: str) -> None:
        """A JSON lines file as an input of the run; `context` says what for: training, primer, validation, test."""
        rows = list(read_jsonl(path))
        if context == "validation":
            # Validation losses compare where the answers are the same, whatever the prompt.
            answers = json.dumps([(row["id"], row.get("completion")) for row in rows])
            self._validation = hashlib.sha256(answers.encode()).hexdigest()
        self._append("dataset", name=path.as_posix(), digest=sha256(path), rows=len(rows), context=context)

    def adapter(self, path: Path, val_loss: float | None) -> str:
        """The trained adapter: logged, registered as a model version, and the alias `best` if its loss is least.

        Returns:
            Its hash, by which `scoring_run` finds the run.
        """
        digest = adapter_sha256(path)
        self.tags({"adapter_sha256": digest})
        self._append("adapter", keep=path, adapter_sha256=digest, val_loss=val_loss, validation=self._validation,
                     registered=self.registered)  # fmt: skip
        return digest

    def callback(self, examples: int | None = None) -> TrainerCallback:
        """The curves of a transformers Trainer; with the `examples` of all passes, also how many a second."""
        from transformers import TrainerCallback

        recorder = self

        class Curves(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.last = (time.perf_counter(), state.epoch or 0.0)

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                named = {CURVES[name]: value for name, value in (logs or {}).items() if name in CURVES}
                if "train_loss" in named:
                    (before, done), self.last = self.last, (time.perf_counter(), state.epoch)
                    if examples:
                        named["examples_per_second"] = (state.epoch - done) * examples / (self.last[0] - before)
                    named["memory_bytes"] = _memory_bytes()
                recorder.metrics(named, step=state.global_step)

        return Curves()

    def _append(self, do: str, keep: Path | None = None, **fields: Any) -> None:
        if self.journal is None:
            return
        try:
            extra = {"file": self.journal.keep(keep)} if keep else {}
            self.journal.append(do, **fields, **extra)
        except OSError as error:
            _say(f"{self.journal.folder} cannot be written ({error}); this run is not tracked from here on")
            self.journal = None

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._writer:
            self._writer.close()


def _memory_bytes() -> int:
    """The most memory taken so far: of the GPU if there is one, otherwise of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def training_run(fingerprint: str, params: dict[str, Any] | None = None) -> Iterator[Recorder]:
    """Record a training into the one MLflow run of the adapter that it makes.

    Args:
        fingerprint: a hash of all that decides the adapter (configuration, data, code). A training with the
            fingerprint of one that was cut off continues that run.
        params: params.yaml, read if not given.
    """
    params = read_params() if params is None else params
    head = {"kind": "training", "fingerprint": fingerprint}
    with _record(f"train-{fingerprint[:16]}", head, TRAINING_SECTIONS, params) as recorder:
        yield recorder


@contextlib.contextmanager
def scoring_run(adapter: str, params: dict[str, Any] | None = None) -> Iterator[Recorder]:
    """Record a scoring into the run of the adapter with the hash `adapter` (see `adapter_sha256`).

    The run is looked up when the journal is sent, by the adapter's hash. An adapter that was scored before with other
    options gets a run of its own below the first, and one that has no run gets one.
    """
    params = read_params() if params is None else params
    head = {"kind": "scoring", "adapter_sha256": adapter}
    with _record(f"zscore-{adapter[:16]}-{os.getpid()}", head, SCORING_SECTIONS, params) as recorder:
        yield recorder


@contextlib.contextmanager
def _record(name: str, head: dict[str, Any], sections: Sequence[str], params: dict[str, Any]) -> Iterator[Recorder]:
    settings = section(Tracking, "tracking", params)
    board = repository_root() / "tensorboard" / f"{_identity()['experiment']}-{name}" if settings.tensorboard else None
    # With several processes (torchrun) the first one records for all.
    if settings.kind == "none" or os.environ.get("RANK", "0") != "0":
        recorder = Recorder(None, board if os.environ.get("RANK", "0") == "0" else None)
        try:
            yield recorder
        finally:
            recorder.close()
        return
    try:
        journal, lock = _open(name)
        journal.append("start", **_start_event(head, sections, params, settings))
    except OSError as error:
        _say(f"{journals()} cannot be written ({error}); this run is not tracked")
        yield Recorder(None, board)
        return
    recorder = Recorder(journal, board, f"text2sql-{params['data']['name']}-{params['model']['name']}")
    sender = _start_sender(journal)
    try:
        with _terminated_as_interrupt():
            yield recorder
        recorder._append("end", status="FINISHED")
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        recorder.tags({"error": f"{type(error).__name__}: {error}"[:500]})
        recorder._append("end", status="KILLED" if killed else "FAILED")
        raise
    finally:
        recorder.close()
        _wait(sender, journal)
        lock.close()


def _start_event(head: dict[str, Any], sections: Sequence[str], params: dict[str, Any], settings: Tracking) -> Any:
    """How a run begins: what it is, its parameters and tags, and where it is to be recorded."""
    names = {"dataset": params["data"]["name"], "model": params["model"]["name"]}
    identity = _identity()
    return {
        "id": uuid.uuid4().hex,
        "kind": head["kind"],
        "name": identity["experiment"],
        "params": flat({key: params[key] for key in sections if key in params}),
        "tags": {**identity, **_inputs(), **names, **head},
        "uri": settings.uri,
        "group": settings.experiment,
        "system_seconds": settings.system_seconds if head["kind"] == "training" else 0,
    }


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


def _identity() -> dict[str, str]:
    """Which experiment on which commit this is, as DVC tells its stages, or as git has it outside of DVC."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    experiment = os.environ.get("DVC_EXP_NAME") or git("symbolic-ref", "--short", "HEAD") or "workspace"
    return {
        "experiment": experiment,
        "base_revision": os.environ.get("DVC_EXP_BASELINE_REV") or commit or "none",
        "git_commit": commit or "none",
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


def _start_sender(journal: Journal) -> subprocess.Popen[bytes] | None:
    """The process that sends the journal while it is written.

    It is in a session of its own, so that Ctrl-C and a kill of the stage leave it time to mark the run.
    """
    package = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH")) if p)
    try:
        with (journal.folder / "sender.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "text2sql.tracking", "send", str(journal.folder)],
                cwd=repository_root(), env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        _say(f"no process to send the journal with: {error}")
        return None


def _wait(sender: subprocess.Popen[bytes] | None, journal: Journal) -> None:
    """A while for all to be sent. A sender that takes longer goes on by itself; what it has given up is said."""
    if sender and sender.stdin:
        sender.stdin.close()
        try:
            sender.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            _say(f"{journal.folder} is still being sent; that goes on without this stage")
            return
    if journal.events_file.exists() and (waiting := len(journal.events()) - journal.state()["sent"]):
        log = journal.folder / "sender.log"
        last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        remedy = "`python -m text2sql.tracking sync` sends them when tracking is up; so does the next run"
        _say(f"{waiting} entries wait in {journal.folder} ({' '.join(last)[:300]})\n  -> {remedy}")


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m text2sql.tracking sync | fetch NAME TARGET`; `send FOLDER` is for `training_run` itself."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m text2sql.tracking", description="MLflow and its journals")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download a registered adapter")
    fetch.add_argument("name", help="like text2sql-mini-smollm2-135m@best, or .../3 for a version")
    fetch.add_argument("target", type=Path, help="the folder to put it in")
    fetch.add_argument("--uri", help="the MLflow server, if it is not the repository's own database")
    sync = commands.add_parser("sync", help="send to MLflow what was recorded while it was down")
    sync.add_argument("--uri", help="send it to this server instead of the one it was meant for")
    commands.add_parser("send", help="(internal) send one journal while it is written").add_argument("journal")
    chosen = parser.parse_args(arguments)
    from text2sql import mlflow_store

    if chosen.command == "send":
        sys.exit(mlflow_store.send_while_written(Journal(Path(chosen.journal))))
    if chosen.command == "sync":
        sys.exit(mlflow_store.sync(chosen.uri))
    try:
        print(f"{chosen.target}: {mlflow_store.fetch(chosen.name, chosen.target, chosen.uri)}")
    except UserError as error:
        sys.exit(f"tracking: {error}")


if __name__ == "__main__":
    main()
