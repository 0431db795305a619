"""What a stage sets in its process, and that importing sets nothing."""

import os
import subprocess
import sys
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


IMPORT_ALL = """
import importlib, logging, os, pkgutil, warnings
import torch, transformers, trl, peft, bitsandbytes, mlflow, psycopg, sqlglot, rich
before = dict(os.environ), list(warnings.filters), logging.getLogger("bitsandbytes").level, logging.getLogger().level
import text2sql
for module in pkgutil.walk_packages(text2sql.__path__, "text2sql."):
    importlib.import_module(module.name)
after = dict(os.environ), list(warnings.filters), logging.getLogger("bitsandbytes").level, logging.getLogger().level
assert before == after, [(b, a) for b, a in zip(before, after) if b != a]
"""


def test_importing_changes_nothing_in_the_process():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = [path for path in (PROJECT / "text2sql").rglob("*.py") if "mallopt" in path.read_text()]
    assert [path.name for path in called] == ["process.py"]
