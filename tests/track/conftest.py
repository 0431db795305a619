"""A clone to record in, and an MLflow database to log to."""

import subprocess

import pytest

from tests.conftest import made_once
from tests.track.workspace import copy_database, make_adapter
from text2sql import registry
from text2sql.workspace import PROMPTS


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """An empty database of the installed MLflow, copied by the tests, as making one takes seconds."""
    return made_once(tmp_path_factory, "database", make_database) / "mlflow.db"


def make_database(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        registry.connect()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone's root on branch `trunk`, outside of DVC, with an adapter and validation answers."""
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE", "RANK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in registry.MLFLOW_SETTINGS:  # `connect` sets them for the process
        monkeypatch.setenv(name, registry.MLFLOW_SETTINGS[name])
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q", "-b", "trunk"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    make_adapter("one")
    PROMPTS.mkdir(parents=True)
    (PROMPTS / "val.jsonl").write_text('{"id": "a", "completion": "SELECT 1"}\n')
    return tmp_path


@pytest.fixture
def store(clone, database):
    """`clone` with a database, and its client."""
    copy_database(database, clone)
    return registry.connect()
