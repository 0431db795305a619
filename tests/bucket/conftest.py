"""A small DVC project in the shape of the real one, a bucket of its own for each test, and DVC run in this process."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import processes
from tests.bucket.emulators import KINDS, Emulator
from tests.conftest import made_once
from text2sql import bucket as product

MAKE = """
import json, random, yaml
from pathlib import Path
from text2sql.files import sha256_tree
seed = yaml.safe_load(open("params.yaml"))["seed"]
noise = random.Random(seed)
def put(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)
for name in ("train", "val", "test"):
    put(f"data/splits/{name}.jsonl", noise.randbytes(200_000))
put("models/base/model.safetensors", noise.randbytes(7_000_000))  # over the limit of a simple upload
put("models/adapter/adapter_model.safetensors", noise.randbytes(1_000_000))
put("models/release/adapter_model.safetensors", Path("models/adapter/adapter_model.safetensors").read_bytes())
put("models/release/README.md", b"card %d" % seed)
files = sha256_tree(Path("models/release"))
put("models/release/manifest.json", json.dumps({"files": files, "made_of": {}}).encode())
put("metrics/score.json", json.dumps({"execution_accuracy": seed / 10, "n": 20}).encode())
with open("runs.log", "a") as log:
    log.write("made\\n")
"""
PIPELINE = """
stages:
  make:
    cmd: python make.py
    params: [seed]
    deps: [make.py]
    outs: [data/splits, models/base, models/adapter, models/release]
    metrics:
      - metrics/score.json: {cache: false}
artifacts:
  text2sql-adapter: {path: models/release, type: model}
"""


#: .dvc/config, as `text2sql remote --shared` writes it
CONFIG = """[core]
    analytics = false
    remote = storage
['remote "storage"']
    url = {url}
    verify = true
"""

#: for `pytest.mark.parametrize`: the test runs on both emulators whenever tests are run, not only among the slow ones
BOTH = {"argnames": "emulator", "argvalues": KINDS, "indirect": True}


@pytest.fixture(scope="module", params=["go", pytest.param("python", marks=pytest.mark.slow)])
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Each emulator in turn, one process a test module."""
    running = Emulator(request.param, tmp_path_factory.mktemp(request.param)).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.kill()


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No one's git identity, git hooks, or DVC's notes about remotes, take part."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of DVC that the product runs start in a tenth of a second."""
    monkeypatch.setattr(product, "subprocess", SimpleNamespace(run=processes.run, PIPE=subprocess.PIPE))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first run, committed; copied by every test."""
    return made_once(tmp_path_factory, "project", make_project)


def make_project(root: Path) -> None:
    (root / "make.py").write_text(MAKE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text("seed: 1\n")
    (root / ".gitignore").write_text("runs.log\n")
    git(root, "init", "-q", "-b", "main", ".")
    for command in (["init", "-q"], ["config", "-q", "core.analytics", "false"], ["repro", "-q"]):
        assert dvc(root, *command) == 0
    commit(root, "first run")


@pytest.fixture
def bucket(emulator: Emulator) -> str:
    name = f"b-{secrets.token_hex(4)}"
    emulator.bucket(name)
    return name


@pytest.fixture
def alice(made: Path, bucket: str, tmp_path: Path) -> Path:
    """A clone with everything made and nothing pushed; its committed remote is the test's bucket."""
    root = tmp_path / "alice"
    shutil.copytree(made, root)
    (root / "runs.log").unlink()
    (root / ".dvc" / "config").write_text(CONFIG.format(url=f"gs://{bucket}/dvc"))
    commit(root, "remote")
    return root


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


def clone(source: Path, target: Path) -> Path:
    git(target.parent, "clone", "-q", str(source), str(target))
    return target


def dvc(root: Path, *words: str) -> int:
    """`dvc ...` in `root`, in this process: a second and a half of imports less; returns its exit status."""
    from dvc.cli import main

    before = Path.cwd()
    os.chdir(root)
    try:
        return int(main(list(words)))
    finally:
        os.chdir(before)
