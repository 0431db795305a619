"""What the bucket is for: someone else has exactly the same bytes, of any commit, branch, tag or experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bucket.conftest import BOTH, clone, commit, dvc, git
from tests.bucket.emulators import Emulator
from text2sql.bucket import check_store, check_workspace, configure, objects, open_cache, push_outputs, without_remote
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.release.versions import list_releases, pull

OUTS = ("data", "models", "metrics")


def outs(root: Path) -> dict[str, dict[str, str]]:
    return {name: sha256_tree(root / name) for name in OUTS}


def change_seed(root: Path, seed: int) -> None:
    (root / "params.yaml").write_text(f"seed: {seed}\n")
    assert dvc(root, "repro", "-q") == 0


@pytest.mark.parametrize(**BOTH)
def test_push_clone_pull_repro(alice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    assert not (bob / "models" / "base").exists()
    assert dvc(bob, "pull") == 0
    assert outs(bob) == outs(alice)
    lock = (bob / "dvc.lock").read_bytes()
    assert dvc(bob, "repro") == 0
    assert not (bob / "runs.log").exists(), "nothing is run again"
    assert (bob / "dvc.lock").read_bytes() == lock
    capsys.readouterr()
    assert dvc(bob, "status", "-c") == 0
    assert "in sync" in capsys.readouterr().out
    assert dvc(bob, "push") == 0
    assert "Everything is up to date" in capsys.readouterr().out


def test_fetch_and_status_tell_what_is_where(alice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dvc(alice, "status", "-c")
    assert "new:" in capsys.readouterr().out
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    dvc(bob, "status", "-c")
    assert "deleted:" in capsys.readouterr().out
    assert dvc(bob, "fetch") == 0
    assert not (bob / "models" / "base").exists()
    assert dvc(bob, "checkout") == 0
    assert outs(bob) == outs(alice)


def test_gc_keeps_what_is_named_and_no_more(alice: Path, bucket: str, emulator: Emulator, tmp_path: Path) -> None:
    """main, a tag, a branch and an experiment have data of their own; so has a commit that nothing names any longer."""
    git(alice, "tag", "text2sql-adapter@v1.0.0")
    assert dvc(alice, "push") == 0
    git(alice, "checkout", "-q", "-b", "other")
    change_seed(alice, 2)
    commit(alice, "two")
    assert dvc(alice, "push") == 0
    git(alice, "checkout", "-q", "main")
    for seed in (4, 3):  # 4 is replaced: nothing names it
        change_seed(alice, seed)
        assert dvc(alice, "push") == 0
    commit(alice, "three")
    assert dvc(alice, "exp", "run", "-q", "-n", "try", "-S", "seed=5") == 0
    assert dvc(alice, "push") == 0
    git(alice, "checkout", "-q", "--", ".")
    assert dvc(alice, "checkout", "-q") == 0
    git(alice, "tag", "text2sql-adapter@v1.1.0")
    before = emulator.objects(bucket)
    assert dvc(alice, "gc", "-f", "-c", "-a", "-T", "--all-experiments") == 0
    one_run = len(emulator.objects(bucket)) / 4
    assert len(before) == 5 * one_run, "of five runs the one that nothing names is gone"
    assert dvc(alice, "gc", "-f", "-c", "-w", "-T") == 0
    assert len(emulator.objects(bucket)) == 2 * one_run, "workspace and tags: branch and experiment are gone"
    for rev, seed in (("text2sql-adapter@v1.0.0", 0.1), ("text2sql-adapter@v1.1.0", 0.3)):
        bob = clone(alice, tmp_path / f"bob-{seed}")
        git(bob, "checkout", "-q", rev)
        assert dvc(bob, "pull") == 0
        assert f'"execution_accuracy": {seed}' in (bob / "metrics" / "score.json").read_text()
    assert dvc(alice, "gc", "-f", "-c", "-w") == 0
    assert len(emulator.objects(bucket)) == one_run


def test_experiment_with_its_data(alice: Path, bucket: str, emulator: Emulator, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "hub.git")
    git(alice, "remote", "add", "origin", str(tmp_path / "hub.git"))
    git(alice, "push", "-q", "origin", "main")
    assert dvc(alice, "push") == 0
    assert dvc(alice, "exp", "run", "-q", "-n", "seven", "-S", "seed=7") == 0
    tried = outs(alice)
    assert dvc(alice, "exp", "push", "origin", "seven") == 0
    bob = clone(tmp_path / "hub.git", tmp_path / "bob")
    assert dvc(bob, "exp", "pull", "origin", "seven") == 0
    assert dvc(bob, "exp", "apply", "seven") == 0
    assert outs(bob) == tried
    carol = clone(tmp_path / "hub.git", tmp_path / "carol")
    refs = ["+refs/heads/*:refs/heads/*", "+refs/exps/*:refs/exps/*", "--tags", "--update-head-ok"]
    git(carol, "fetch", "-q", "origin", *refs)
    kept = emulator.objects(bucket)
    assert dvc(carol, "gc", "-f", "--cloud", "--all-branches", "--all-tags", "--all-experiments") == 0
    assert emulator.objects(bucket) == kept, "with all refs fetched, no one's experiment is deleted"
    rev, folder = pull("seven", str(bob), tmp_path / "adapter")
    assert rev == "seven"
    assert sha256_tree(folder) == sha256_tree(alice / "models" / "release")


def test_the_raw_archive_goes_there_too(alice: Path, tmp_path: Path) -> None:
    """With this repository's .gitignore: the archive itself is never git's, what tracks it is."""
    (alice / ".gitignore").write_bytes((Path(__file__).parents[2] / ".gitignore").read_bytes())
    archive = alice / "data" / "raw" / "spider_data.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"PK raw")
    assert dvc(alice, "add", "-q", "data/raw/spider_data.zip") == 0
    commit(alice, "archive")
    assert git(alice, "ls-files", "data/raw") == "data/raw/spider_data.zip.dvc\n"
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    assert dvc(bob, "pull") == 0
    assert (bob / "data" / "raw" / "spider_data.zip").read_bytes() == b"PK raw"


def test_hard_links_are_safe_for_stages(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/STORAGE.md says so: an output is removed before it is made again, and never written through its link."""
    assert dvc(alice, "config", "--local", "cache.type", "hardlink") == 0
    assert dvc(alice, "checkout", "-q", "--relink") == 0
    base = alice / "models" / "base" / "model.safetensors"
    assert base.stat().st_nlink == 2
    change_seed(alice, 2)
    change_seed(alice, 1)
    monkeypatch.chdir(alice)
    assert check_workspace() == []
    cache = open_cache({})
    assert check_store("cache", cache, objects(cache)) == []


def test_import_from_a_second_bucket(alice: Path, bucket: str, emulator: Emulator, tmp_path: Path) -> None:
    """Another project with another bucket: what is imported stays there, and comes from there in every clone."""
    second = f"{bucket}-second"
    emulator.bucket(second)
    other = clone(alice, tmp_path / "other")
    assert dvc(other, "remote", "modify", "storage", "url", f"gs://{second}/dvc") == 0
    change_seed(other, 8)
    commit(other, "eight")
    assert dvc(other, "push") == 0
    emulator.put(second, "raw/extra.json", b'{"raw": true}')
    assert dvc(alice, "import", "-q", str(other), "models/release", "-o", "theirs") == 0
    assert dvc(alice, "import-url", "-q", f"gs://{second}/raw/extra.json", "extra.json") == 0
    commit(alice, "import")
    assert dvc(alice, "push") == 0
    bob = clone(alice, tmp_path / "bob")
    assert dvc(bob, "pull") == 0
    assert sha256_tree(bob / "theirs") == sha256_tree(other / "models" / "release")
    assert (bob / "extra.json").read_bytes() == b'{"raw": true}'


def test_released_adapters(alice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By tag, branch and commit, from a path or a URL, without the pipeline; listed with their score."""
    git(alice, "tag", "text2sql-adapter@v1.9.0")
    git(alice, "tag", "unrelated")
    first = sha256_tree(alice / "models" / "release")
    assert dvc(alice, "push") == 0
    change_seed(alice, 6)
    commit(alice, "six")
    git(alice, "tag", "-a", "text2sql-adapter@v1.10.0", "-m", "better")
    second = sha256_tree(alice / "models" / "release")
    assert dvc(alice, "push") == 0
    url = f"file://{alice}"
    assert list_releases(url) == [
        ("text2sql-adapter@v1.9.0", 0.1, 20),
        ("text2sql-adapter@v1.10.0", 0.6, 20),
    ]
    for number, (rev, expected) in enumerate(
        [(None, second), ("text2sql-adapter@v1.9.0", first), ("main", second), ("main~1", first)]
    ):
        _, folder = pull(rev, str(alice) if rev == "main~1" else url, tmp_path / f"adapter-{number}")
        assert sha256_tree(folder) == expected, rev
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    target = str(tmp_path / "by-dvc")
    assert dvc(nowhere, "artifacts", "get", url, "text2sql-adapter", "--rev", "v1.10.0", "-o", target) == 0
    assert sha256_tree(tmp_path / "by-dvc") == second
    assert dvc(nowhere, "get", url, "models/release", "--rev", "text2sql-adapter@v1.9.0", "-o", target + "2") == 0
    assert sha256_tree(tmp_path / "by-dvc2") == first
    for rev, repo, says in [
        ("no-such-rev", url, "no-such-rev"),
        (None, str(nowhere), "git|repository"),
        ("main", url, "is there already"),
    ]:
        out = tmp_path / ("adapter-0" if "already" in says else "new")
        with pytest.raises(UserError, match=says):
            pull(rev, repo, out)
    assert not (tmp_path / "new").exists()


def test_ones_own_bucket(
    alice: Path, bucket: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make remote`: in .dvc/config.local, so that git sees nothing of it; `--shared`: in .dvc/config."""
    own = f"{bucket}-own"
    emulator.bucket(own)
    monkeypatch.chdir(alice)
    assert "pull and push" in configure(f"gs://{own}/folder")
    assert git(alice, "status", "--porcelain") == ""
    assert "all as dvc.lock says" in push_outputs()
    assert emulator.objects(bucket) == {}
    assert all(name.startswith("folder/files/md5/") for name in emulator.objects(own)), "no test of access is left"
    bob = clone(alice, tmp_path / "bob")
    assert dvc(bob, "pull") != 0, "the clone knows the team's bucket only"
    monkeypatch.chdir(bob)
    without_remote()  # as a new clone is left where the project's bucket cannot be read
    configure(f"gs://{own}/folder", shared=True)
    assert git(bob, "status", "--porcelain") == " M .dvc/config\n"
    assert dvc(bob, "pull") == 0
    assert outs(bob) == outs(alice)
