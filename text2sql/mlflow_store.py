"""Sends the journals of `text2sql.tracking` to MLflow. Nothing else in the project imports MLflow.

Sending is repeatable: an event that MLflow has already (the process was killed before it could note that) is not
recorded twice. The local database is made, and brought to the schema of the installed MLflow, under a lock.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A server that does not answer is noticed within seconds: the journal waits, so there is no need to be patient.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from text2sql.errors import UserError
from text2sql.files import repository_root, write_json
from text2sql.tracking import Journal, adapter_sha256, journals

SEND_EVERY = 3.0  # seconds
TRIES_AT_THE_END = 3  # before the journal is left to `sync`
OTHERS = 120.0  # seconds that `sync` waits for another process to send a journal
BATCH = 200  # events of one request; MLflow takes 1,000 metrics
# The alias of the registered model's version with the least validation loss.
BEST = "best"


# --- The store -------------------------------------------------------------------------------------------------------


def local_uri() -> str:
    """The database that `mlflow ui` opens in the repository's root."""
    return f"sqlite:///{repository_root() / 'mlflow.db'}"


def connect(uri: str | None = None) -> MlflowClient:
    """A client of the server `uri`, or of the local database, made or brought up to date first."""
    if uri is None:
        uri = local_uri()
        _prepare_database(repository_root() / "mlflow.db")
    # Registering a model looks its files up by the global address, whatever the client's is.
    mlflow.set_tracking_uri(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _prepare_database(path: Path) -> None:
    """Make the tables, or migrate those of an older MLflow, one process at a time; a migration keeps a copy."""
    import fcntl
    import sqlite3

    from mlflow.store.db import utils

    journals().mkdir(parents=True, exist_ok=True)
    with (journals() / "database.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
        version, newest = utils._get_schema_version(engine), utils._get_latest_schema_revision()
        if version == newest and utils._all_tables_exist(engine):
            return
        if version is not None:
            backup = path.with_name(f"{path.name}.{version}.bak")
            with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
                source.backup(target)
            print(f"{path} is of an older MLflow: migrated, with a copy in {backup}", flush=True)
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)


def _experiment_id(client: MlflowClient, name: str, local: bool) -> str:
    """The experiment `name`, made if need be, its artifacts in the repository's root whatever the working directory."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = str(repository_root() / "mlruns" / name) if local else None
        try:
            return client.create_experiment(name, location, {"mlflow.experimentKind": "custom_model_development"})
        except MlflowException as error:  # another process was quicker
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _search(client: MlflowClient, group: str, /, **tags: str) -> list[Run]:
    """Runs with these tags, newest first."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([group], query, order_by=["attributes.start_time DESC"]))


# --- Sending one journal ---------------------------------------------------------------------------------------------


class Sender:
    """Sends one journal's events, from where the last sender stopped."""

    def __init__(self, journal: Journal, uri: str | None = None) -> None:
        start = next(e for e in journal.events() if e["do"] == "start")
        self.journal = journal
        self.uri = uri or start["uri"]
        self.system_seconds = start["system_seconds"]
        self.client: MlflowClient | None = None
        self.experiment = ""
        self.state = journal.state()

    def send(self) -> int:
        """Send what is new; returns how many events."""
        if self.client is None:
            self.client = connect(self.uri)
        pending = self.journal.events()[self.state["sent"] :]
        for batch in _batches(pending):
            getattr(self, f"_{batch[0]['do']}" if len(batch) == 1 else "_together")(*batch)
            self.state["sent"] += len(batch)
            write_json(self.journal.state_file, self.state)
        return len(pending)

    @property
    def run_id(self) -> str:
        return self.state["run_id"]

    # Each method below records the event of its name.

    def _start(self, event: dict[str, Any]) -> None:
        client = self.client
        self.experiment = _experiment_id(client, event["group"], local=self.uri is None)
        if self.run_id is None:
            own, run_id = self._find_or_create(event)
            self.state |= {"run_id": run_id, "own": own, "experiment": self.experiment}
        elif self.state["own"]:
            client.update_run(self.run_id, status="RUNNING", name=event["name"])
        run = client.get_run(self.run_id)
        new, changed = {}, {}
        for key, value in event["params"].items():
            if run.data.params.get(key, value) == value:
                new[key] = value
            else:  # MLflow refuses to change a parameter
                changed[f"changed.{key}"] = value
        tags = event["tags"] if self.state["own"] else {}
        experiments = [*filter(None, run.data.tags.get("experiments", "").split(", "))]
        if event["name"] not in experiments:
            experiments.append(event["name"])
        self._batch(params=new, tags={**tags, **changed, "experiments": ", ".join(experiments)})

    def _find_or_create(self, event: dict[str, Any]) -> tuple[bool, str]:
        """(is it this journal's own run, its id). A scoring belongs to its adapter's run, see `scoring_run`.

        An experiment that is run again under its name, as it was killed after its training had ended, makes the same
        adapter again: that is its run, and what the curves have already stays.
        """
        client = self.client
        if made := _search(client, self.experiment, journal=event["id"]):
            return True, made[0].info.run_id
        tags = {"journal": event["id"], **event["tags"]}
        if event["kind"] == "training":
            same = _search(client, self.experiment, fingerprint=tags["fingerprint"], experiment=event["name"])
            if same:
                run_id = same[0].info.run_id
                histories = {name: client.get_metric_history(run_id, name) for name in same[0].data.metrics}
                self.state["known"] = {name: max(m.step for m in points) for name, points in histories.items()}
                client.update_run(run_id, status="RUNNING")
                return True, run_id
        if event["kind"] == "scoring":
            runs = _search(client, self.experiment, adapter_sha256=event["tags"]["adapter_sha256"])
            same = [r for r in runs if all(r.data.params.get(k, v) == v for k, v in event["params"].items())]
            # The one of this experiment, if there are several.
            if same:
                return False, max(same, key=lambda r: r.info.run_name == event["name"]).info.run_id
            if runs:
                parent = next((r for r in runs if "mlflow.parentRunId" not in r.data.tags), runs[-1])
                tags["mlflow.parentRunId"] = parent.info.run_id
                event["params"] = {**parent.data.params, **event["params"]}
        run = client.create_run(self.experiment, start_time=event["time"], tags=tags, run_name=event["name"])
        return True, run.info.run_id

    def _together(self, *events: dict[str, Any]) -> None:
        known = self.state.get("known", {})
        metrics = [
            Metric(name, value, event["time"], event["step"] or 0)
            for event in events
            if event["do"] == "metrics"
            for name, value in event["values"].items()
            if event["step"] is None or event["step"] > known.get(name, -1)
        ]
        params = {k: v for e in events if e["do"] == "params" for k, v in e["values"].items()}
        tags = {k: v for e in events if e["do"] == "tags" for k, v in e["values"].items()}
        self._batch(metrics, params, tags)

    _metrics = _params = _tags = _together

    def _batch(
        self, metrics: list[Metric] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        metrics, params, tags = metrics or [], list((params or {}).items()), list((tags or {}).items())
        while metrics or params or tags:
            self.client.log_batch(
                self.run_id,
                metrics[:800],
                [Param(k, v[:6000]) for k, v in params[:100]],
                [RunTag(k, v[:5000]) for k, v in tags[:100]],
            )
            metrics, params, tags = metrics[800:], params[100:], tags[100:]

    def _artifact(self, event: dict[str, Any]) -> None:
        path = self.journal.files / event["file"]
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))
        shutil.rmtree(path.parent)

    def _table(self, event: dict[str, Any]) -> None:
        value = {"columns": event["columns"], "data": event["data"]}
        self.client.log_text(self.run_id, json.dumps(value, ensure_ascii=False), event["name"])
        # By this tag the user interface shows the file as a table.
        tables = [{"path": event["name"], "type": "table"}]
        self._batch(tags={"mlflow.loggedArtifacts": json.dumps(tables)})

    def _dataset(self, event: dict[str, Any]) -> None:
        dataset = Dataset(
            event["name"], event["digest"][:36], "local", json.dumps({"uri": event["name"]}),
            profile=json.dumps({"num_rows": event["rows"], "sha256": event["digest"]}),
        )  # fmt: skip
        tag = InputTag("mlflow.data.context", event["context"])
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def _adapter(self, event: dict[str, Any]) -> None:
        client, name = self.client, event["registered"]
        digest = event["adapter_sha256"]
        if not any(v.run_id == self.run_id for v in client.search_model_versions(f"name = '{name}'")):
            path = self.journal.files / event["file"]
            tags = {"adapter_sha256": digest, "validation": event["validation"] or ""}
            if event["val_loss"] is not None:
                tags["val_loss"] = repr(event["val_loss"])
            model = client.create_logged_model(self.state["experiment"], "adapter", self.run_id, tags)
            client.log_model_artifacts(model.model_id, str(path))
            client.finalize_logged_model(model.model_id, "READY")
            client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, 0)])
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            client.create_model_version(
                name, f"models:/{model.model_id}", self.run_id, tags, model_id=model.model_id
            )  # fmt: skip
        self._choose_best(name, event["validation"])
        shutil.rmtree(self.journal.files / event["file"], ignore_errors=True)

    def _choose_best(self, name: str, validation: str | None) -> None:
        """Set the alias; losses are comparable between versions with the same validation answers only."""
        versions = self.client.search_model_versions(f"name = '{name}'")
        rated = [v for v in versions if v.tags.get("validation") == (validation or "") and "val_loss" in v.tags]
        if rated:
            best = min(rated, key=lambda v: (float(v.tags["val_loss"]), int(v.version)))
            self.client.set_registered_model_alias(name, BEST, best.version)

    def _end(self, event: dict[str, Any]) -> None:
        if self.state["own"]:
            self.client.set_terminated(self.run_id, event["status"], event["time"])
        elif event["status"] != "FINISHED":
            self._batch(tags={"scoring_status": event["status"]})


def _batches(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Runs of metrics, params and tags together, everything else alone; order is kept."""
    batch: list[dict[str, Any]] = []
    for event in events:
        if event["do"] in ("metrics", "params", "tags") and len(batch) < BATCH:
            batch.append(event)
            continue
        if batch:
            yield batch
            batch = []
        if event["do"] in ("metrics", "params", "tags"):
            batch = [event]
        else:
            yield [event]
    if batch:
        yield batch


# --- When ------------------------------------------------------------------------------------------------------------


def send_while_written(journal: Journal) -> int:
    """Send a journal until its run ends; returns the exit status.

    Standard input is a pipe that the stage holds: its end means that the stage has ended, or was killed.
    """
    lock = journal.lock("sender", wait=float("inf"))
    try:
        if not journal.events_file.exists():  # the sender before this one has finished the job
            return 0
        sync(quiet=True)
        sender, system = Sender(journal), _System(journal)
        delay, failures, alive = 0.0, 0, True
        while True:
            if alive:
                alive = not select.select([sys.stdin], [], [], delay)[0]
                system.sample(journal, sender.system_seconds if alive or not system.step else 0)
            if not alive and not _close(journal):
                return 0
            try:
                sender.send()
                delay, failures = SEND_EVERY, 0
            except Exception:  # whatever fails, the journal has it: try again, or leave it to `sync`
                traceback.print_exc()
                failures += 1
                delay = min(60.0, SEND_EVERY * 2**failures)
                if not alive and failures >= TRIES_AT_THE_END:
                    return 1
                continue
            if not alive:
                _done(journal)
                return 0
    finally:
        if lock:
            lock.close()


def _close(journal: Journal) -> bool:
    """Mark a run whose process was killed; False if another process has taken the run over."""
    if journal.status() is None:
        with journal.lock("owner") or open(os.devnull) as owner:  # noqa: PTH123
            if owner.name == os.devnull:
                return False
            journal.append("end", status="KILLED")
    return True


def _runs(journal: Journal) -> bool:
    """Whether a stage is still writing it; such a journal has a sender of its own."""
    owner = journal.lock("owner")
    if owner:
        owner.close()
    return owner is None


def _done(journal: Journal) -> None:
    """A finished run's journal has served; that of a run that was cut off is kept, for the run may be resumed."""
    if journal.status() == "FINISHED":
        shutil.rmtree(journal.folder)


def sync(uri: str | None = None, quiet: bool = False) -> int:
    """Send every journal whose run is over; returns 1 if one could not be sent.

    Args:
        uri: the server to send them to, instead of the one each was meant for.
        quiet: only errors are printed, and what another process is sending is left to it; otherwise that is waited for.
    """
    left, unreachable = 0, set()
    # Trainings before scorings, which look for the run of their adapter.
    for folder in sorted(p for p in journals().glob("*") if p.is_dir()):
        journal = Journal(folder)
        patience = 0.0 if quiet or _runs(journal) else OTHERS
        with journal.lock("sender", patience) or open(os.devnull) as mine:  # noqa: PTH123
            if mine.name == os.devnull:
                if not quiet and not _runs(journal):
                    left += 1
                    print(f"{folder.name}: another process is still sending it", file=sys.stderr, flush=True)
                continue
            if not journal.events_file.exists() or _runs(journal):
                continue
            sender = Sender(journal, uri)
            try:
                if sender.uri in unreachable:
                    raise ConnectionError(f"{sender.uri} is down")
                _close(journal)
                if (sent := sender.send()) and not quiet:
                    print(f"{folder.name}: {sent} entries sent")
                _done(journal)
            except Exception as error:  # one bad journal must not keep the others back
                left += 1
                unreachable.add(sender.uri)
                print(f"{folder.name}: not sent: {error}", file=sys.stderr, flush=True)
    if not quiet:
        print("all sent" if not left else f"{left} journals are left", flush=True)
    return 1 if left else 0


class _System:
    """Processor, memory, disk, network and GPU, by MLflow's own monitors, under the names its interface groups."""

    def __init__(self, journal: Journal) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        try:
            self.monitors.append(GPUMonitor())
        except (ImportError, RuntimeError) as error:
            print(f"no GPU to watch: {error}", flush=True)
        self.due = 0.0
        # A resumed run goes on where it stopped.
        samples = [e["step"] for e in journal.events() if "system/cpu_utilization_percentage" in e.get("values", {})]
        self.step = max(samples, default=-1) + 1

    def sample(self, journal: Journal, every: float) -> None:
        """Add a sample to the journal if one is due; `every` = 0: never."""
        if not every or time.monotonic() < self.due:
            return
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        journal.append("metrics", values={f"system/{k}": v for k, v in values.items()}, step=self.step)
        self.step += 1
        self.due = time.monotonic() + every


# --- Getting an adapter back -----------------------------------------------------------------------------------------


def fetch(name: str, target: Path, uri: str | None = None) -> str:
    """Download the adapter registered as `name` (`text2sql-mini-tiny@best`, or `.../3` for a version) into `target`.

    Returns:
        Its hash, which has been compared with the files.

    Raises:
        UserError: there is no such version, or its files have changed.
    """
    from mlflow.artifacts import download_artifacts

    client = connect(uri)
    try:
        model, _, alias = name.partition("@")
        model, _, number = model.partition("/")
        version = (
            client.get_model_version_by_alias(model, alias or BEST)
            if not number
            else client.get_model_version(model, number)
        )
    except MlflowException as error:
        known = ", ".join(m.name for m in client.search_registered_models()) or "none"
        raise UserError(f"no registered adapter {name}: {error.message}", f"registered: {known}") from None
    download_artifacts(
        f"models:/{version.name}/{version.version}", dst_path=str(target), tracking_uri=uri or local_uri()
    )
    digest, expected = adapter_sha256(target), version.tags["adapter_sha256"]
    if digest != expected:
        raise UserError(
            f"the files of {name} in {target} hash to {digest}, not {expected}", "they were changed: train again"
        )
    return digest
