"""MLflow's registry: each adapter is a version of `text2sql-DATA-MODEL`, the best of them has the alias `best`.

`python -m text2sql.track sync` registers the workspace's adapter if it is new; `fetch` brings one back, for
`text2sql ask --model models:/NAME@best` and `train.init`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from text2sql.config import SCORING_SECTIONS, TRAINING_SECTIONS
from text2sql.errors import UserError
from text2sql.files import alone_in, digest, read_beside, repository_root, write_json
from text2sql.workspace import ADAPTER, BASE, adapter_sha256, validation_sha256

if typing.TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

#: MLflow's settings, and what a run and a version say of themselves
_FILE = read_beside(__file__)
MLFLOW_SETTINGS: Mapping[str, str] = _FILE["settings"]
LIBRARIES = ("mlflow", "torch", "transformers", "peft", "sqlglot")  # that loading a registered adapter needs
#: the measures by which versions are compared, and the tag with the number of questions behind an accuracy
BY_ANSWERS, QUESTIONS = "val_execution_accuracy", "val_questions"
MEASURES = {BY_ANSWERS: 1, "val_loss": -1}  # the sign: 1 where more is better


def connect(uri: str | None = None, experiment: str | None = None) -> MlflowClient:
    """A client of the server `uri`, or of the database that `mlflow ui` opens in the repository's root.

    Args:
        experiment: MLflow's experiment that runs are logged to from now on; it is created if it is new.

    Raises:
        MlflowException: the server does not answer, or the database is of another MLflow (the message names
            `mlflow db upgrade`).
    """
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow

    root = repository_root()
    mlflow.set_tracking_uri(uri or f"sqlite:///{root / 'mlflow.db'}")
    # Processes that create the same database (a client does) or experiment at the same time fail: they take turns.
    with alone_in(root / "mlruns"):
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        if experiment and client.get_experiment_by_name(experiment) is None:
            # the root's, also from a copy that DVC runs
            location = None if uri else str(root / "mlruns" / experiment.replace("..", "-"))
            client.create_experiment(experiment, location, {"mlflow.experimentKind": "custom_model_development"})
    return client


class Registry:
    """The registered adapters of one data set and base model.

    Attributes:
        name: the registry's name of them.

    Args:
        params: params.yaml.
        trained: metrics/train.json.
    """

    def __init__(self, client: MlflowClient, params: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
        self.client, self.params, self.trained, self.name = client, params, trained, registered_name(params)

    def describe(self, score: str, version: str = "") -> str:
        """What the adapter is, how good it is, and, of a registered version, what to type, in Markdown."""
        facts = {"score": score, "model": self.params["model"]["name"]}
        text = _FILE["described"] + (_FILE["loaded"] if version else "")
        return text.format(**facts, data=self.params["data"]["name"], address=f"models:/{self.name}/{version}").strip()

    def describe_version(self, version: str, score: str) -> None:
        """`describe` as the description of a version."""
        self.client.update_model_version(self.name, version, self.describe(score, version))

    def versions(self, run_id: str = "", adapter: str = "") -> list[ModelVersion]:
        """The registered adapters of this data and model; only those of a run, only those with this hash."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        of_run = [version for version in found if run_id in ("", version.run_id)]
        return [version for version in of_run if adapter in ("", version.tags.get("adapter_sha256"))]

    def register(self, run_id: str, adapter: str) -> None:
        """The adapter as a version of `text2sql-DATA-MODEL`, once; and the alias `best`."""
        validation = validation_sha256()
        if not self.versions(run_id, adapter):  # the same training on another machine makes other bytes
            tags = {name: repr(self.trained[name]) for name in MEASURES if self.trained.get(name) is not None}
            if BY_ANSWERS in tags:
                tags[QUESTIONS] = str(self.params["train"].get("choose_questions"))
            self.log_model(run_id, tags | {"adapter_sha256": adapter, "validation": validation})
        # Figures compare only where the validation answers are the same.
        comparable = [version for version in self.versions() if version.tags.get("validation") == validation]
        if best := best_version(comparable):
            version, measure = best
            self.client.set_model_version_tag(self.name, version, "best_by", measure)
            self.client.set_registered_model_alias(self.name, "best", version)

    def log_model(self, run_id: str, tags: dict[str, str]) -> None:
        """The adapter as `mlflow.pyfunc` loads it: with its recipe, signature and the code that asks it."""
        import mlflow

        # MLflow asks for type hints, with which one dict could not stand for a row, and overrides filters of warnings.
        quiet = contextlib.redirect_stderr(io.StringIO())
        with tempfile.TemporaryDirectory() as folder, quiet, mlflow.start_run(run_id):
            adapter = shutil.copytree(ADAPTER, Path(folder, "adapter"))
            # As in a release: what the adapter was trained on and how it is to be asked (text2sql/ask/models.py).
            base = {BASE.as_posix(): digest(BASE)} if BASE.is_dir() else {}
            recipe = {key: self.params[key] for key in (*TRAINING_SECTIONS, *SCORING_SECTIONS) if key in self.params}
            write_json(adapter / "manifest.json", {"made_of": base, "params": recipe})
            mlflow.pyfunc.log_model(
                name=self.name,
                python_model=str(Path(__file__).parent / "ask" / "mlflow_model.py"),
                artifacts={"adapter": str(adapter)},
                signature=mlflow.models.infer_signature({"question": "", "schema": ""}, [""]),
                pip_requirements=[f"{library}=={version_of(library)}" for library in LIBRARIES],
                registered_model_name=self.name,
                metadata={"adapter_sha256": tags["adapter_sha256"]},
                tags=tags,
                model_type="text-to-sql",
            )


def registered_name(params: Mapping[str, Any]) -> str:
    """The registry's name of what was trained: it takes no dot (qwen2.5), slash, colon, per cent or quote."""
    return re.sub(r"[./:%\"']", "-", f"text2sql-{params['data']['name']}-{params['model']['name']}")


def best_version(versions: Sequence[ModelVersion]) -> tuple[str, str] | None:
    """The best of versions with the same validation answers, and by which measure: execution accuracy, among those that
    answered as many questions as the latest of them; where no version has it, the least validation loss."""
    for measure, sign in MEASURES.items():
        if rated := [version for version in versions if measure in version.tags]:
            questions = max(rated, key=lambda v: int(v.version)).tags.get(QUESTIONS)
            comparable = [version for version in rated if version.tags.get(QUESTIONS) == questions]
            return max(comparable, key=lambda v: (sign * float(v.tags[measure]), -int(v.version))).version, measure
    return None


def fetch(name: str, target: Path) -> str:
    """Download the adapter registered as `name` (`text2sql-mini-tiny@best`, or `.../3` for a version) into `target`.

    Returns:
        Its hash, which has been compared with the files.

    Raises:
        UserError: there is no such version, it is none of ours, or its files have changed.
        MlflowException: MLflow is away.
    """
    client = connect()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = download_artifacts(f"models:/{name}", dst_path=scratch)
        except MlflowException as error:
            known = ", ".join(model.name for model in client.search_registered_models()) or "none"
            raise UserError(f"no registered adapter {name}: {error.message}", f"registered: {known}") from None
        if not (adapter := Path(folder, "artifacts", "adapter")).is_dir():
            raise UserError(f"{name} of MLflow is no adapter of this project", "name one: text2sql-DATA-MODEL@best")
        shutil.copytree(adapter, target, dirs_exist_ok=True)
        actual, expected = adapter_sha256(target), Model.load(folder).metadata["adapter_sha256"]
    if actual != expected:
        raise UserError(f"the files of {name} hash to {actual}, not {expected}", "they were changed: train again")
    return actual
