"""A clone to record in, and an MLflow database to send to."""

import shutil
import subprocess

import pytest
from recording import make_adapter

from text2sql import tracking


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """An empty database of the installed MLflow, copied by the tests, as making one takes seconds."""
    from text2sql import mlflow_store

    folder = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        mlflow_store.connect()
    return folder / "mlflow.db"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone's root on branch `trunk`, outside of DVC; nothing sends the journals but the test."""
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE", "RANK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q", "-b", "trunk"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "_start_sender", lambda journal: None)
    make_adapter("one")
    (tmp_path / "val.jsonl").write_text('{"id": "a", "completion": "SELECT 1"}\n')
    return tmp_path


@pytest.fixture
def store(clone, database):
    """`clone` with a database, and its client."""
    from text2sql import mlflow_store

    shutil.copy(database, clone / "mlflow.db")
    return mlflow_store.connect()
