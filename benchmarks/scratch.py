"""A folder apart from the repository in which stages run on other inputs, for the scripts beside this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path.cwd()
CODE = ("stages", "text2sql", "conf", "dvc.yaml")


def workspace(folder: Path, inputs: Iterable[str]) -> Path:
    """`folder` with links to the code and to these inputs of the repository, and its params.yaml without tracking
    and without validation questions, whose prompts are not there."""
    for name in (*CODE, *inputs):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((ROOT / name).resolve())
    (folder / ".dvc").mkdir()
    params = (ROOT / "params.yaml").read_text().replace("kind: mlflow", "kind: none")
    (folder / "params.yaml").write_text(re.sub(r"(?m)^(  validation:) \d+$", r"\1 0", params))
    return folder


def start(folder: Path, stage: str) -> subprocess.Popen[bytes]:
    """Start a stage there, as in an experiment: params.yaml may differ from what conf/ composes."""
    environment = {**os.environ, "DVC_ROOT": str(folder), "DVC_EXP_NAME": "scratch", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment)


def run(folder: Path, *stages: str) -> None:
    """Run stages there, one after the other; the first that fails ends the script."""
    for stage in stages:
        if start(folder, stage).wait():
            sys.exit(f"{stage} failed in {folder}")
