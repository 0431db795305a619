"""How long torch's threads spin while they wait: it depends on whether another training may run beside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = "import os, text2sql.model; print(os.environ.get('GOMP_SPINCOUNT'))"
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
