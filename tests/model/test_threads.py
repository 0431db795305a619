"""What a stage sets in its process, and that importing sets nothing."""

import importlib
import logging
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

SHOW = "import os; from text2sql.model.process import prepare; prepare(); print(os.environ.get('GOMP_SPINCOUNT'))"
PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("folder", "given", "shown"),
    [
        (".", {}, "5000"),
        (".dvc/tmp/exps/tmp1", {}, "0"),
        (".", {"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
        (".", {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
    ids=["alone", "a queue worker", "as the user says", "the same in another way"],
)
def test_spinning(tmp_path, folder, given, shown):
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = kept | given | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=place, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == shown, done.stderr


LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "mlflow", "psycopg", "sqlglot", "rich")
SET_BY_STAGES = ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def settings():
    levels = [logging.getLogger(name).level for name in (None, "bitsandbytes")]
    return dict(os.environ), list(warnings.filters), levels


def import_all():
    """Every module of text2sql as if none had been imported, in a process where nothing has been set."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "text2sql"]:
        del sys.modules[name]
    for name in SET_BY_STAGES:
        os.environ.pop(name, None)
    warnings.resetwarnings()
    for name in (None, "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    before = settings()
    for module in pkgutil.walk_packages(importlib.import_module("text2sql").__path__, "text2sql."):
        importlib.import_module(module.name)
    assert settings() == before, [(b, a) for b, a in zip(before, settings(), strict=True) if b != a]


def test_importing_changes_nothing_in_the_process():
    """In a fork of this process, which has the libraries already: their import takes ten seconds."""
    for name in LIBRARIES:
        importlib.import_module(name)
    process = multiprocessing.get_context("fork").Process(target=import_all)
    process.start()
    process.join(300)
    process.kill()  # has an effect only where something hangs
    process.join()
    assert process.exitcode == 0
    called = [path for path in (PROJECT / "text2sql").rglob("*.py") if "mallopt" in path.read_text()]
    assert [path.name for path in called] == ["process.py"]


def test_nothing_is_reported_to_the_model_hub():
    """TRL says there that a trainer was made, if it may."""
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY
