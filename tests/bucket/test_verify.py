"""`text2sql verify` finds every kind of damage, everywhere, and a push from a good clone mends the bucket's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.bucket.conftest import clone, dvc
from tests.bucket.emulators import Emulator
from text2sql.bucket import (
    Finding,
    Store,
    check_store,
    dvc_settings,
    objects,
    open_cache,
    open_remote,
    pull_outputs,
    push_outputs,
    verify_clone,
)
from text2sql.cli import app
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.release.versions import check_release

SPLIT, BASE, RELEASE = "data/splits/val.jsonl", "models/base/model.safetensors", "models/release"


def found(remote: bool = True) -> set[tuple[str, str, str]]:
    return {(finding.place, finding.state, finding.path) for finding in verify_clone(remote)[1]}


def cached(root: Path, path: str) -> Path:
    """Where the cache keeps the bytes of a file of the workspace."""
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
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def damage(root: Path) -> set[tuple[str, str, str]]:
    """Do every kind of damage to a clone; what of it has to be found."""
    (root / SPLIT).unlink()
    flip(root / "data/splits/test.jsonl")
    (root / "data/splits/more").write_text("")
    shutil.rmtree(root / "models/base")
    (root / "make.py").write_text("pass")
    (root / "metrics/score.json").unlink()
    cached(root, "data/splits/train.jsonl").unlink()
    flip(cached(root, "models/release/README.md"))
    flip(root / "models/release/manifest.json")
    flip(root / "models/adapter/adapter_model.safetensors")
    (root / RELEASE / "README.md").rename(root / RELEASE / "READ.md")
    return {
        ("workspace", "missing", f"{RELEASE}/README.md"),
        ("workspace", "unexpected", f"{RELEASE}/READ.md"),
        ("workspace", "missing", SPLIT),
        ("workspace", "changed", "data/splits/test.jsonl"),
        ("workspace", "unexpected", "data/splits/more"),
        ("workspace", "missing", BASE),
        ("workspace", "changed", "make.py"),
        ("workspace", "missing", "metrics/score.json"),
        ("cache", "missing", "data/splits/train.jsonl"),
        ("cache", "corrupt", "models/release/README.md"),
        ("workspace", "changed", "models/release/manifest.json"),
        ("workspace", "changed", "models/adapter/adapter_model.safetensors"),
    }


def test_damage_in_the_clone(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any remote: what is wrong is found, and nothing else; the exit status tells, and what to type is said."""
    root = tmp_path / "clone"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["verify", "--local"])
    assert result.exit_code == 0, result.output
    flip(root / RELEASE / "README.md")
    result = CliRunner().invoke(app, ["verify", "--local"])
    assert result.exit_code == 1
    for place, remedy in [("workspace", "dvc pull"), ("release", "dvc repro release")]:
        assert re.search(rf"{place}: changed {RELEASE}/README.md\n  -> .*{remedy}", result.output), result.output
    flip(root / RELEASE / "README.md")
    expected = damage(root)
    assert found(remote=False) == expected


def test_damage_in_the_bucket_is_found_and_mended(
    alice: Path, bucket: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a directory, whole listings: dvc push itself says "up to date" over most of it."""
    monkeypatch.chdir(alice)
    assert dvc(alice, "push") == 0
    names = emulator.objects(bucket)
    one, two, *_ = (name for name in names if name.endswith(".dir"))
    removed, altered = [one, f"dvc/{key(alice, SPLIT)}"], [two, f"dvc/{key(alice, BASE)}"]
    for name in removed + altered:
        emulator.delete(bucket, name)
    for name in altered:
        emulator.put(bucket, name, b"x" * names[name])
    wrong = damaged_in_bucket()
    assert {("missing", SPLIT), ("corrupt", BASE)} <= wrong
    assert sorted(state for state, _ in wrong) == ["corrupt", "corrupt", "missing", "missing"]
    bob = clone(alice, tmp_path / "bob")
    monkeypatch.chdir(bob)
    with pytest.raises(UserError) as caught:
        pull_outputs()
    assert len(str(caught.value).splitlines()) == 2
    monkeypatch.chdir(alice)
    dvc(alice, "push")
    assert damaged_in_bucket(), "dvc push alone does not mend it all"
    assert "mended" in push_outputs()
    assert damaged_in_bucket() == set()
    monkeypatch.chdir(bob)
    pull_outputs()
    assert sha256_tree(bob / "models") == sha256_tree(alice / "models")
    assert found() == set()


def damaged_in_bucket() -> set[tuple[str, str]]:
    """What is wrong in the bucket, for a clone that has everything."""
    settings = dvc_settings()
    findings = check_store("remote", open_remote(settings), objects(open_cache(settings)))
    return {(finding.state, finding.path) for finding in findings}


def key(root: Path, path: str) -> str:
    return str(cached(root, path).relative_to(root / ".dvc" / "cache"))


def test_a_corrupt_cache_is_not_pushed(
    alice: Path, bucket: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(cached(alice, SPLIT))
    monkeypatch.chdir(alice)
    with pytest.raises(UserError, match="corrupt in the cache"):
        push_outputs()
    assert emulator.objects(bucket) == {}


def test_a_clone_that_lacks_it_cannot_mend(
    alice: Path, bucket: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alice)
    assert dvc(alice, "push") == 0
    emulator.delete(bucket, f"dvc/{key(alice, BASE)}")
    bob = clone(alice, tmp_path / "bob")
    monkeypatch.chdir(bob)
    with pytest.raises(UserError, match="in a clone that has it"):
        push_outputs()


def test_an_object_without_an_md5_is_read(
    alice: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, emulator: Emulator
) -> None:
    """Google has none for composed objects. Where it has one, which it computed on arrival, nothing is downloaded."""
    monkeypatch.chdir(alice)
    assert dvc(alice, "push") == 0
    emulator.put(bucket, f"dvc/{key(alice, BASE)}", b"other bytes")
    opened: list[str] = []
    remote = open_remote(dvc_settings())
    real = remote.fs.open
    monkeypatch.setattr(remote.fs, "open", lambda path, *words: opened.append(path) or real(path, *words))
    named = objects(open_cache(dvc_settings()))
    expected = [Finding("remote", "corrupt", BASE, key(alice, BASE)[-33:].replace("/", ""))]
    assert check_store("remote", remote, named) == expected
    assert not opened
    listing = {path: {"size": facts["size"]} for path, facts in remote.listing().items()}
    monkeypatch.setattr(Store, "listing", lambda self: listing)
    assert check_store("remote", remote, named) == expected
    assert len(opened) == len(named)


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
    for broken in ("[]", "{}", '{"files": 3, "made_of": {}}'):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(UserError, match=r"manifest\.json is not as it was made"):
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
