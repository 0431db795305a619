"""Copies of training checkpoints in a bucket: whole or not at all, whatever is killed, removed or altered."""

from __future__ import annotations

import random
import secrets
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from tests.bucket.emulators import KINDS, Emulator
from text2sql import bucket
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.model import checkpoint_copies
from text2sql.model.checkpoint import is_whole, seal
from text2sql.model.checkpoint_copies import copy_out, fetch_newest, forget_copies

#: where copies go: to a bucket of either emulator, or to a folder where one is mounted
ANYWHERE = pytest.mark.parametrize(
    ("emulator", "url"), [*((name, "gs") for name in KINDS), ("go", "folder")], indirect=True
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    noise = random.Random(20)
    folder = tmp_path / "checkpoints" / "fingerprint" / "checkpoint-20"
    (folder / "state").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(noise.randbytes(6 * 2**20))  # over the limit of a simple upload
    (folder / "trainer.json").write_text('{"step": 20}')
    # The Python emulator reads a simple upload as e-mail, and takes a carriage return at its end for part of the
    # boundary: noise that is always the same, and ends otherwise.
    (folder / "state" / "rng é.bin").write_bytes(noise.randbytes(1000) + b"\0")
    (folder / "state" / "empty").write_bytes(b"")
    seal(folder)
    return folder


@pytest.fixture
def url(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> str:
    """A bucket, or a folder where one is mounted."""
    if request.param == "folder":
        return str(tmp_path / "mounted")
    return emulator.bucket(f"copies-{secrets.token_hex(4)}") + "/checkpoints"


def names(url: str) -> list[str]:
    return checkpoint_copies.copies_at(f"{url}/fingerprint")


@ANYWHERE
def test_there_and_back(checkpoint: Path, url: str, tmp_path: Path) -> None:
    """Another machine gets the last copy; older ones, and at the end of the training all, are removed."""
    copy_out(checkpoint, url)
    elsewhere = tmp_path / "elsewhere" / "fingerprint"
    fetch_newest(elsewhere, url)
    assert sha256_tree(elsewhere / "checkpoint-20") == sha256_tree(checkpoint)
    later = checkpoint.rename(checkpoint.with_name("checkpoint-100"))
    copy_out(later, url)
    assert names(url) == ["checkpoint-100"]
    fetch_newest(elsewhere, url)
    assert is_whole(elsewhere / "checkpoint-100")
    forget_copies(elsewhere, url)
    assert names(url) == []
    forget_copies(elsewhere, url)
    fetch_newest(tmp_path / "new" / "fingerprint", url)
    assert not (tmp_path / "new").exists(), "no copies: nothing to fetch"


@ANYWHERE
@pytest.mark.parametrize("survivors", [1, 4])
def test_killed_while_copying(
    checkpoint: Path, url: str, tmp_path: Path, survivors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies after `survivors` files: the copy before it is still the newest, and a second try completes."""
    copy_out(checkpoint, url)
    later = checkpoint.rename(checkpoint.with_name("checkpoint-30"))
    fs = bucket.open_store(url).fs
    put, left = fs.put_file, iter([True] * survivors)

    def dying(*args: object, **options: object) -> object:
        if not next(left, False):
            raise KeyboardInterrupt
        return put(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "put_file", dying)
        with pytest.raises(KeyboardInterrupt):
            copy_out(later, url)
    assert names(url) == ["checkpoint-20"]
    copy_out(later, url)
    assert names(url) == ["checkpoint-30"]


@ANYWHERE
@pytest.mark.parametrize("damage", ["removed", "altered"])
def test_damage_is_found(checkpoint: Path, url: str, tmp_path: Path, damage: str) -> None:
    copy_out(checkpoint, url)
    fs, root = fsspec.url_to_fs(url)
    victim = f"{root}/fingerprint/checkpoint-20/trainer.json"
    fs.rm_file(victim) if damage == "removed" else fs.pipe_file(victim, b'{"step": 99}')
    fs.invalidate_cache()
    elsewhere = tmp_path / "elsewhere" / "fingerprint"
    with pytest.raises(UserError, match="damaged"):
        fetch_newest(elsewhere, url)
    assert not (elsewhere / "checkpoint-20").exists()


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's service takes any name; the emulators do not take this one."""
    stranger = SimpleNamespace(find=lambda root: [f"{root}/../../evil"])
    monkeypatch.setattr(checkpoint_copies, "open_store", lambda url: bucket.Store(stranger, "name/copies/x", url))
    with pytest.raises(UserError, match="outside the folder"):
        checkpoint_copies.get_copy("gs://name/copies/x", tmp_path / "back")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://bucket/x", "not supported"),
        ("gs://", "names no bucket"),
        ("gs://no-such-bucket-here/x", "not found"),
    ],
)
def test_addresses_that_lead_nowhere(checkpoint: Path, emulator: Emulator, address: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        copy_out(checkpoint, address)
    assert len(str(caught.value).splitlines()) == 2


def test_a_dead_service_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed.getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        bucket.open_store("gs://any/prefix")
    assert time.monotonic() - started < 2 * bucket.PROBE_TIMEOUT
