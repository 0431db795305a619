"""`text2sql verify` finds every kind of damage, everywhere, and a push from a good clone mends the bucket's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.storage.conftest import clone, dvc
from tests.storage.emulators import Emulator
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.storage.transfer import pull, push
from text2sql.storage.verify import check_release, verify

SPLIT, BASE, RELEASE = "data/splits/val.jsonl", "models/base/model.safetensors", "models/release"


def found(remote: bool = True) -> set[tuple[str, str, str]]:
    return {(finding.place, finding.state, finding.path) for finding in verify(remote)[1]}


def cached(root: Path, path: str) -> Path:
    """Where the cache keeps the bytes of a file of the workspace."""
    import hashlib

    oid = hashlib.md5((root / path).read_bytes()).hexdigest()
    return root / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]


def flip(path: Path) -> None:
    """One bit, and the same size, time and mode: nothing but the bytes tells."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(before.st_mode)
    import os

    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_cached(root: Path) -> None:
    cached(root, SPLIT).unlink()


def flip_cached(root: Path) -> None:
    flip(cached(root, SPLIT))


DAMAGE: list[tuple[Callable[[Path], object], set[tuple[str, str, str]]]] = [
    (lambda root: None, set()),
    (lambda root: (root / SPLIT).unlink(), {("workspace", "missing", SPLIT)}),
    (lambda root: flip(root / SPLIT), {("workspace", "changed", SPLIT)}),
    (lambda root: shutil.rmtree(root / "models/base"), {("workspace", "missing", "models/base")}),
    (lambda root: (root / "data/splits/more").write_text(""), {("workspace", "unexpected", "data/splits/more")}),
    (lambda root: (root / "make.py").write_text("pass"), {("workspace", "changed", "make.py")}),
    (lambda root: (root / "metrics/score.json").unlink(), {("workspace", "missing", "metrics/score.json")}),
    (remove_cached, {("cache", "missing", SPLIT)}),
    (flip_cached, {("cache", "corrupt", SPLIT)}),
    (
        lambda root: flip(root / RELEASE / "README.md"),
        {("workspace", "changed", f"{RELEASE}/README.md"), ("release", "changed", f"{RELEASE}/README.md")},
    ),
    (
        lambda root: flip(root / "models/adapter/adapter_model.safetensors"),
        {
            ("workspace", "changed", "models/adapter/adapter_model.safetensors"),
            ("release", "changed", "models/adapter/adapter_model.safetensors"),
        },
    ),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_damage_in_the_clone(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    expected: set[tuple[str, str, str]],
) -> None:
    """Without any remote: what is wrong is found, and nothing else; the exit status tells."""
    root = tmp_path / "clone"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    damage(root)
    assert found() == expected
    result = CliRunner().invoke(app, ["verify", "--local"])
    assert result.exit_code == bool(expected), result.output


@pytest.mark.parametrize("damage", ["removed", "altered"])
def test_damage_in_the_bucket_is_found_and_mended(
    alice: Path, bucket: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A file of a directory, a whole listing: dvc push itself says "up to date" over most of it."""
    monkeypatch.chdir(alice)
    push()
    names = emulator.objects(bucket)
    victims = [next(n for n in names if n.endswith(".dir")), f"dvc/{key(alice, SPLIT)}", f"dvc/{key(alice, BASE)}"]
    for name in victims:
        emulator.delete(bucket, name)
        if damage == "altered":
            emulator.put(bucket, name, b"x" * names[name])
    state = {"removed": "missing", "altered": "corrupt"}[damage]
    wrong = found()
    assert {("remote", state, SPLIT), ("remote", state, BASE)} <= wrong
    assert len(wrong) == 3
    bob = clone(alice, tmp_path / "bob")
    monkeypatch.chdir(bob)
    with pytest.raises(UserError) as caught:
        pull()
    assert len(str(caught.value).splitlines()) == 2
    monkeypatch.chdir(alice)
    dvc(alice, "push")
    assert found(), "dvc push alone does not mend it all"
    assert "mended" in push()
    assert found() == set()
    monkeypatch.chdir(bob)
    pull()
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")
    assert found() == set()


def key(root: Path, path: str) -> str:
    return str(cached(root, path).relative_to(root / ".dvc" / "cache"))


def test_a_corrupt_cache_is_not_pushed(
    alice: Path, bucket: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_cached(alice)
    monkeypatch.chdir(alice)
    with pytest.raises(UserError, match="corrupt in the cache"):
        push()
    assert emulator.objects(bucket) == {}


def test_a_clone_that_lacks_it_cannot_mend(
    alice: Path, bucket: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alice)
    push()
    emulator.delete(bucket, f"dvc/{key(alice, BASE)}")
    bob = clone(alice, tmp_path / "bob")
    monkeypatch.chdir(bob)
    with pytest.raises(UserError, match="in a clone that has it"):
        push()


def test_google_s_md5_stands_for_the_bytes(
    alice: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, emulator: Emulator
) -> None:
    """With Google's endpoint nothing is downloaded: what the service computed on arrival is compared."""
    from dvc_objects.fs.base import FileSystem

    from text2sql.storage import verify as module

    monkeypatch.chdir(alice)
    push()
    emulator.put(bucket, f"dvc/{key(alice, BASE)}", b"other bytes")
    monkeypatch.setattr(module, "endpoint", lambda configured: module.GOOGLE)
    opened: list[object] = []
    real = FileSystem.open
    monkeypatch.setattr(FileSystem, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    assert found() == {("remote", "corrupt", BASE)}
    assert not [path for _, path, *_ in opened if str(path).startswith(bucket)]


def test_the_release_against_its_manifest(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    shutil.copytree(made / RELEASE, folder)
    assert check_release(folder, adapter=None) == []
    flip(folder / "adapter_model.safetensors")
    (folder / "README.md").unlink()
    (folder / "extra.bin").write_text("")
    states = {Path(f.path).name: f.state for f in check_release(folder, adapter=None)}
    assert states == {"adapter_model.safetensors": "changed", "README.md": "missing", "extra.bin": "unexpected"}
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        check_release(folder, adapter=None)


def test_what_the_adapter_was_made_of(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest's checksums of data and base model are held against the workspace too."""
    from text2sql.files import digest

    root = tmp_path / "clone"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    path = root / RELEASE / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["made_of"] = {"data/splits": digest(root / "data/splits")}
    path.write_text(json.dumps(manifest))
    assert check_release() == []
    flip(root / SPLIT)
    assert [(f.state, f.path) for f in check_release()] == [("changed", "data/splits")]
