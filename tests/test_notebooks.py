"""The Colab notebooks, executed from the first cell to the last with the tiny model, in a clone of the project.

Each runs most of the pipeline, so they are not part of `make test`; `.ci/run` executes the one that validates.
"""

import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
#: steps that only Colab, a bucket or the hub can do: they must say that they were left out, and no other may
LEFT_OUT = {
    "validate_colab": ["clone and environment", "bucket"],
    "train_colab": [
        "clone and environment", "bucket", "checkpoints in the bucket", "push to the bucket", "publish",
    ],
}  # fmt: skip


def test_what_names_the_bytes_in_the_bucket_is_to_be_kept():
    """The runtime's dvc.lock ends with the runtime; without it nobody finds what was pushed."""
    *_, last = nbformat.read(ROOT / "notebooks/train_colab.ipynb", as_version=4).cells
    pushed, said = last.source.partition('sh("text2sql push")')[1:]
    assert pushed
    assert said.splitlines()[1].strip().startswith('print("KEEP dvc.lock')


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with this working tree's tracked files, so that what is tested is what is here."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, folder], check=True)
    changed = subprocess.run(["git", "diff", "HEAD", "--binary"], cwd=ROOT, capture_output=True, check=True).stdout
    if changed:
        subprocess.run(["git", "apply"], cwd=folder, input=changed, check=True)
    return folder


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["validate_colab", "train_colab"])
def test_notebook(name, clone, monkeypatch):
    monkeypatch.setenv("EXPERIMENT", "tiny")
    for variable in ("REPOSITORY", "BUCKET", "HUB", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    notebook = nbformat.read(clone / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept in git without outputs"
    client = NotebookClient(notebook, timeout=1700, startup_timeout=300, resources={"metadata": {"path": str(clone)}})
    client.execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    left_out = [line.split(": ")[1] for line in printed.splitlines() if line.startswith("LEFT OUT: ")]
    assert left_out == LEFT_OUT[name]
    assert (clone / "metrics/preflight.json").exists()
    if name == "train_colab":
        assert (clone / "models/release/README.md").exists()
        assert "$ text2sql ask" in printed
