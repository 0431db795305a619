"""MLflow: one run for each adapter, with its training, its score and its release.

    with training_run(fingerprint) as run:      # stages/train.py: the curves, while the adapter is trained
        trainer.add_callback(run.callback(...))
    record()                                    # stages/score.py, stages/release.py: what the workspace has by now

A training never waits for MLflow and never fails because of it. MLflow's own threads send the curves; where the server
or the database is away, a warning says so. Everything else is read from the workspace (params.yaml, metrics/,
models/adapter, data/predictions) and logged into the run of that adapter, which is found by the adapter's hash: only
what the run lacks, so that logging twice changes nothing. So one command makes up for an MLflow that was away:

    python -m text2sql.track sync     # the workspace's adapter, with curves, score and release
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import socket
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from text2sql.config import (
    LOCK,
    PARAMS,
    SCORING_SECTIONS,
    TRAINING_SECTIONS,
    dvc_stages,
    flatten,
    read_params,
    require,
    require_made_with,
    section,
)
from text2sql.errors import UserError, as_made, exits
from text2sql.files import alone_in, git, read_beside, read_csv, read_json, read_jsonl, repository_root, sha256
from text2sql.registry import Registry, connect
from text2sql.workspace import (
    ADAPTER,
    BESIDE,
    LOSS_CSV,
    METRICS,
    PLOTS,
    PREDICTIONS,
    PROMPTS,
    RELEASE,
    SCORE,
    SPLITS,
    VERDICTS_CSV,
    accuracy_in_words,
    adapter_sha256,
    is_released,
    is_scored,
)

if typing.TYPE_CHECKING:
    from mlflow.entities import Run
    from transformers import TrainerCallback

#: names in MLflow of the contexts of data sets, of the columns of metrics/plots/loss.csv, of the trainer's figures and
#: of those of metrics/score.json
_FILE = read_beside(__file__)
CONTEXTS, COLUMNS, CURVES, SCORES = (_FILE[part] for part in ("contexts", "columns", "curves", "scores"))
REFUSING = ("mlflow", "sqlalchemy", "alembic")  # whose errors, beside the system's, say that the record is away
TABLE = "predictions.json"
Named = Mapping[str, Any]


@dataclass(frozen=True)
class Tracking:
    """conf/tracking: where experiments are recorded."""

    kind: Literal["mlflow", "none"]
    uri: str | None  # of a server; None: the database in the repository's root
    experiment: str  # MLflow's name of the group of runs
    system_seconds: Annotated[float, Ge(0)]  # between two samples of processor, memory and GPU; 0: none

    def __post_init__(self) -> None:
        require(self.uri is None or "://" in self.uri, f"uri must be like http://host:5000, or null, not {self.uri!r}")
        require(bool(self.experiment.strip()), "experiment must not be empty")


def flat(values: Named) -> dict[str, str]:
    """Nested parameters by dotted names, as MLflow has them: {"train": {"epochs": 1.0}} -> {"train.epochs": "1.0"}."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in flatten(dict(values)).items()}


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """An error of MLflow within the block is a warning: no training, score or release is lost because of it."""
    try:
        yield
    except Exception as error:
        what = error.what if isinstance(error, UserError) else _not_taken(error)
        _say(f"{what}\ntracking: `python -m text2sql.track sync` logs what is here, when that is mended")


def _not_taken(error: Exception) -> str:
    """What MLflow or the way to it refused."""
    what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    return f"MLflow did not take it ({what})"


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


# --- While the adapter is trained ------------------------------------------------------------------------------------


class TrainingRun:
    """The curves of a training, into MLflow's active run; where it is off or away, into nothing. Never raises."""

    def __init__(self, last_step: float = math.inf) -> None:
        #: a training that resumes from a checkpoint repeats the steps since: those up to this one are in the run
        self._last_step = last_step

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves at a step, which MLflow's threads send; the first error ends the curves, with a warning."""
        if step > self._last_step:
            import mlflow

            last, self._last_step = self._last_step, math.inf
            with _warned():
                mlflow.log_metrics(dict(values), step=step, synchronous=False)
                self._last_step = last

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
                if CURVES["loss"] in named:
                    (before, done), self.last = self.last, (time.perf_counter(), state.epoch)
                    named["training/examples_per_second"] = (state.epoch - done) * examples / (self.last[0] - before)
                    named["training/memory_gib"] = memory_bytes() / 2**30
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
    params, run = params or read_params(), TrainingRun()
    # With several processes (torchrun) the first one records for all.
    if section(Tracking, "tracking", params).kind == "none" or os.environ.get("RANK", "0") != "0":
        yield run
        return
    with _warned():
        run = _begin(Recorder(params), fingerprint)
    try:
        yield run
    except BaseException as error:
        with _warned():
            status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            _end(status, error=f"{type(error).__name__}: {error}")
        raise
    with _warned():
        _end("FINISHED", adapter_sha256=adapter_sha256(ADAPTER))  # by which `log_workspace` finds the run
        _say(f"`mlflow ui` shows this run at {log_workspace(params)}")


def _begin(recorder: Recorder, fingerprint: str) -> TrainingRun:
    """Make the run of this experiment and fingerprint (killed before, or trained again), or a new one, the active."""
    import mlflow
    import psutil

    client, host = recorder.client, socket.gethostname()
    for running in client.search_runs([recorder.group], "attributes.status = 'RUNNING'"):
        where, _, process = running.data.tags.get("process", "").partition(":")
        if where == host and not psutil.pid_exists(int(process)):
            client.set_terminated(running.info.run_id, "KILLED")
    run_id = recorder.run_with(fingerprint=fingerprint, experiment=_experiment())
    recorder.log(run_id, recorder.parameters(TRAINING_SECTIONS), {}, process=f"{host}:{os.getpid()}")
    seconds = recorder.settings.system_seconds
    mlflow.set_system_metrics_sampling_interval(seconds or None)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it announces its start and its end
    mlflow.start_run(run_id, log_system_metrics=seconds > 0)
    return TrainingRun(max(recorder.steps(run_id, CURVES["loss"]), default=-1))


def _end(status: str, **tags: str) -> None:
    """End MLflow's active run, if the training has one; its threads send what they have first."""
    import mlflow

    if run := mlflow.active_run():
        mlflow.end_run(status)  # first: it is not active any more, even if MLflow is away
        for name, value in tags.items():
            mlflow.MlflowClient().set_tag(run.info.run_id, name, value)


# --- What the workspace has ------------------------------------------------------------------------------------------


def record(params: dict[str, Any] | None = None) -> str | None:
    """Log what the workspace has of its adapter, for a stage at its end: see `log_workspace`. Never raises.

    Returns:
        The address of the run in the user interface; None if it is not recorded, or MLflow is away.
    """
    params = params or read_params()
    # Predictions that came from elsewhere have no adapter, and no run.
    if ADAPTER.is_dir() and section(Tracking, "tracking", params).kind == "mlflow":
        with _warned():
            return log_workspace(params)
    return None


def log_workspace(params: dict[str, Any]) -> str:
    """Log what the run of the workspace's adapter lacks: parameters, curves, figures, files, the registered version.

    The run is the one with the adapter's hash, or a new one.

    Returns:
        The address of the adapter's run in the user interface.
    """
    recorder, adapter = Recorder(params), adapter_sha256(ADAPTER)
    with alone_in(repository_root()):  # not in mlruns: no training waits for a record that another process makes
        run_id = scored_in = recorder.adapter_run(adapter)
        recorder.log_training(run_id, adapter)
        if is_scored(adapter):
            scored_in = recorder.scoring_run(run_id)
            recorder.log_score(scored_in, adapter)
        if is_released():
            for path in filter(Path.exists, (RELEASE / name for name in sorted(BESIDE))):
                recorder.client.log_artifact(scored_in, str(path))
        for finished in {run_id, scored_in}:
            if recorder.client.get_run(finished).info.status != "FINISHED":
                recorder.client.set_terminated(finished)
    # `mlflow ui` opens a page on agents: this one has the run, and the way to all others.
    server = recorder.settings.uri or "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{recorder.group}/runs/{run_id}"


class Recorder:
    """The workspace's files, as runs and registered models of MLflow's experiment have them.

    Whatever is logged here may have been logged before: the methods add what is lacking.

    Attributes:
        settings: of params.yaml.
        group: the id of the experiment.
        trained: metrics/train.json, if it is there.
        registry: the registered adapters of this data set and base model.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        self.settings = section(Tracking, "tracking", params)
        with as_made(METRICS / "train.json"):
            self.trained = {**read_json(METRICS / "train.json")} if (METRICS / "train.json").exists() else {}
        self.client = connect(self.settings.uri, self.settings.experiment)
        self.group = self.client.get_experiment_by_name(self.settings.experiment).experiment_id
        with as_made(PARAMS, "`make params` composes it again"):
            self.params, self.registry = params, Registry(self.client, params, self.trained)

    # Runs

    def adapter_run(self, adapter: str) -> str:
        """The run of the adapter, of this experiment if there are several; one whose end was lost; or a new one.

        An adapter that another experiment made and DVC restored from its cache: its run then names both experiments.
        """
        name = _experiment()
        runs = [run for run in self.search(adapter_sha256=adapter) if "mlflow.parentRunId" not in run.data.tags]
        if not runs:
            return self.run_with(fingerprint=self.trained.get("fingerprint", adapter), experiment=name)
        run = max(runs, key=lambda run: run.info.run_name == name)
        known = run.data.tags.get("experiments", run.info.run_name)
        if f", {name}, " not in f", {known}, ":
            self.client.set_tag(run.info.run_id, "experiments", f"{known}, {name}")
        return run.info.run_id

    def scoring_run(self, run_id: str) -> str:
        """The adapter's run, or, where that is scored with other options, a run below it; with the options."""
        options, first = self.parameters(SCORING_SECTIONS), self.client.get_run(run_id)
        tags = {"mlflow.parentRunId": run_id, "adapter_sha256": first.data.tags["adapter_sha256"]}
        for run in (first, *self.search(**tags)):
            if all(run.data.params.get(name, value) == value for name, value in options.items()):
                self.log(run.info.run_id, options, {})
                return run.info.run_id
        child = self.create(**tags)
        self.log(child, first.data.params | options, {})
        return child

    def search(self, **tags: str) -> list[Run]:
        """Runs with these tags, newest first."""
        # A filter of MLflow has no escape: what has a quote, as names of branches may, is compared here.
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items() if "'" not in value)
        found = self.client.search_runs([self.group], query, order_by=["attributes.start_time DESC"])
        return [run for run in found if tags.items() <= run.data.tags.items()]

    def run_with(self, **tags: str) -> str:
        """The newest run with these tags, or a new one; its id."""
        found = self.search(**tags)
        return found[0].info.run_id if found else self.create(**tags)

    def create(self, **tags: str) -> str:
        """A new run under the experiment's name; its id."""
        experiment, commit = _experiment(), git("rev-parse", "--verify", "HEAD") or "none"
        tags |= {
            "experiment": experiment,
            "base_revision": os.environ.get("DVC_EXP_BASELINE_REV") or commit,
            "git_commit": commit,
            "dataset": self.params["data"]["name"],
            "model": self.params["model"]["name"],
        }
        return self.client.create_run(self.group, tags=tags | _inputs(), run_name=experiment).info.run_id

    def parameters(self, sections: tuple[str, ...]) -> dict[str, str]:
        """These sections of params.yaml, by dotted names."""
        return flat({key: self.params[key] for key in sections if key in self.params})

    def steps(self, run_id: str, curve: str) -> set[int]:
        """The steps at which a run has a curve."""
        return {point.step for point in self.client.get_metric_history(run_id, curve)}

    def log(self, run_id: str, params: Named, figures: Named, *of: str, **tags: str) -> None:
        """Tags; the parameters that the run does not have (MLflow refuses to change those that it has), and the figures
        that it does not have, or has otherwise; `of` which logged model and data set (name, digest) they are."""
        from mlflow.entities import Metric, Param, RunTag

        there, now = self.client.get_run(run_id).data, int(time.time() * 1000)
        new = {name: value for name, value in figures.items() if value is not None and there.metrics.get(name) != value}
        self.client.log_batch(
            run_id,
            [Metric(name, value, now, 0, *of) for name, value in new.items()],
            [Param(name, value) for name, value in params.items() if name not in there.params],
            [RunTag(name, value) for name, value in tags.items()],
        )

    def log_dataset(self, run_id: str, split: str, path: Path, context: str) -> tuple[str, str]:
        """The split as a data set of the run; returns its name and digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        name, sum_ = f"{self.params['data']['name']} {split}", sha256(path)
        profile = json.dumps({"num_rows": sum(1 for _ in read_jsonl(path)), "sha256": sum_})
        dataset = Dataset(name, sum_[:36], "local", json.dumps({"uri": path.as_posix()}), profile=profile)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        try:
            self.client.log_inputs(run_id, inputs)
        except MlflowException:  # two machines recorded the same data set at once: now it is there
            self.client.log_inputs(run_id, inputs)
        return name, dataset.digest

    # Training and score

    def log_training(self, run_id: str, adapter: str) -> None:
        """Parameters, losses, figures and data sets of the training, and the adapter as a registered version."""
        from mlflow.entities import Metric

        with as_made(f"{METRICS / 'train.json'} or {LOSS_CSV}"):
            figures = {"training/minutes": self.trained["seconds"] / 60} if "seconds" in self.trained else {}
            rows, now = read_csv(LOSS_CSV), int(time.time() * 1000)
            curves = {
                curve: {int(row["step"]): float(row[column]) for row in rows if row.get(column)}
                for column, curve in COLUMNS.items()
            }
        self.log(run_id, self.parameters(TRAINING_SECTIONS), figures, adapter_sha256=adapter)
        for curve, points in curves.items():
            there = self.steps(run_id, curve) if points else set()
            new = [Metric(curve, value, now, step) for step, value in points.items() if step not in there]
            self.client.log_batch(run_id, new)
        if self.trained:
            self.client.log_artifact(run_id, str(METRICS / "train.json"))
        for split, context in CONTEXTS.items():
            if (path := PROMPTS / f"{split}.jsonl").exists():
                self.log_dataset(run_id, split, path, context)
        self.registry.register(run_id, adapter)

    def log_score(self, run_id: str, adapter: str) -> None:
        """Accuracy overall and by hardness, the plots, and every prediction with its verdict as a table."""
        import pandas

        with as_made(f"a file of {METRICS}, or {PREDICTIONS}"):
            score = read_json(SCORE)
            said, figures = accuracy_in_words(score), {shown: score[name] for name, shown in SCORES.items()}
            parts = {"": score} | {f"_{hardness}": part for hardness, part in score["by_hardness"].items()}
            figures |= {f"score/accuracy{name}": part["execution_accuracy"] for name, part in parts.items()}
            predictions = pandas.DataFrame(read_jsonl(PREDICTIONS))[["id", "db_id", "question", "gold", "predicted"]]
            verdicts = pandas.DataFrame(read_csv(VERDICTS_CSV)).drop(columns="db_id")
            table = predictions.merge(verdicts, on="id").to_dict("split", index=False)
        data = self.log_dataset(run_id, "test", SPLITS / "test.jsonl", "test")
        of: tuple[str, ...] = ()
        # By these the Models page and `search_logged_models` rank. A run below, with other options of predict and
        # score, has no model: the model's figures are those of its run.
        for version in self.registry.versions(run_id, adapter):
            self.registry.describe_version(version.version, said)
            of = (version.source.removeprefix("models:/"), *data)
        self.client.log_dict(run_id, table, TABLE)
        # By the first of these tags the user interface shows the file as a table.
        shown = {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])}
        self.log(run_id, {}, figures, *of, **shown, **{"mlflow.note.content": self.registry.describe(said)})
        self.client.log_artifact(run_id, str(PLOTS))


# --- Where this is ---------------------------------------------------------------------------------------------------


def _experiment() -> str:
    """The experiment's name, as DVC tells its stages; outside of DVC the branch."""
    return os.environ.get("DVC_EXP_NAME") or git("symbolic-ref", "--short", "HEAD") or "workspace"


def _inputs() -> dict[str, str]:
    """`input.PATH` -> hash in dvc.lock of each input of the stage that runs.

    DVC has written the lock entries of the stages before this one when it starts this one. Outside of DVC nothing
    vouches for the lock file, and nothing is claimed.
    """
    if "DVC_STAGE" not in os.environ or not LOCK.exists():
        return {}
    hashes = {out["path"]: out["md5"] for entry in dvc_stages(LOCK).values() for out in entry.get("outs", [])}
    return {f"input.{dep}": hashes[dep] for dep in dvc_stages()[os.environ["DVC_STAGE"]]["deps"] if dep in hashes}


def main(arguments: list[str] | None = None) -> None:
    """`python -m text2sql.track sync`."""
    parser = argparse.ArgumentParser(prog="python -m text2sql.track", description="the record of adapters in MLflow")
    parser.add_argument("command", choices=["sync"], help="log the workspace's adapter, with curves, score and release")
    parser.add_argument("--uri", help="an MLflow server other than that of params.yaml")
    parser.add_argument("--traces", action="store_true", help="each scored question as a trace, too: minutes")
    given = parser.parse_args(arguments)
    with exits("tracking"):
        params = read_params()
        if not ADAPTER.is_dir():
            remedy = "`make repro` trains it, `dvc exp apply NAME` brings it back"
            raise UserError(f"there is no {ADAPTER} here", remedy)
        require_made_with(params)
        tracking = section(Tracking, "tracking", params)
        if given.uri is not None:
            params["tracking"] |= {"kind": "mlflow", "uri": given.uri}
        elif tracking.kind == "none":
            raise UserError("tracking.kind is none", "name a server: --uri, or `text2sql params` with tracking=local")
        scored = is_scored(adapter_sha256(ADAPTER))
        try:
            address = log_workspace(params)
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in REFUSING:
                raise  # a file that is not as it was made; or a defect, which keeps its traceback
            remedy = "type this again when that is mended, or name a server: --uri"
            raise UserError(_not_taken(error), remedy) from error
        if not scored:
            _say(f"{SCORE} is not of this adapter and is left out: `dvc repro score`")
        print(f"the run of {ADAPTER}: {address}")
        if given.traces:
            if not scored:
                raise UserError("there is no score of this adapter to trace", "`dvc repro score`")
            from text2sql.traces import log_traces

            *_, experiment, _, run_id = address.split("/")
            print(f"{log_traces(experiment, run_id)} questions traced")


if __name__ == "__main__":
    main()
