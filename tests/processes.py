"""Processes that start in a tenth of a second: forked from one that has imported the heavy libraries, and nothing more.

They are real: they have their own memory, environment and exit status, and can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
HEAVY = [
    "dvc.cli", "dvc.api", "dvc_gs", "gcsfs", "google.cloud.storage", "text2sql.cli", "pandas", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
]  # fmt: skip
FORKS.set_forkserver_preload(HEAVY)


def start(
    command: list[str], out: str, err: str, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> BaseProcess:
    """`python -m module words`, of which `command` is module and words; it prints to the files `out` and `err`."""
    process = FORKS.Process(target=_become, args=(command, str(cwd or Path.cwd()), dict(env), out, err))
    process.start()
    return process


def _become(command: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run(command, text=True)` with both streams captured; `python -m` starts quickly."""
    if command[:2] != [sys.executable, "-m"]:
        return subprocess.run(command, **options)
    with tempfile.TemporaryDirectory() as folder:
        out, err = (str(Path(folder, name)) for name in ("out", "err"))
        process = start(command[2:], out, err, env=options.get("env", os.environ))
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode or 0, Path(out).read_text(), Path(err).read_text())
