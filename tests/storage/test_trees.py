"""Folders in a bucket: whole or not at all, whatever is killed, removed or altered."""

from __future__ import annotations

import json
import random
import secrets
import socket
import time
from pathlib import Path

import pytest

from tests.storage.conftest import BOTH
from tests.storage.emulators import Emulator
from text2sql.errors import UserError
from text2sql.files import sha256_tree
from text2sql.storage import bucket as bucket_module
from text2sql.storage.trees import copy_tree, fetch_tree, remove_tree, trees

pytestmark = [pytest.mark.parametrize(**BOTH), pytest.mark.usefixtures("emulator")]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    noise = random.Random(20)
    folder = tmp_path / "checkpoint-20"
    (folder / "state").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(noise.randbytes(6 * 2**20))  # over the limit of a simple upload
    (folder / "trainer.json").write_text('{"step": 20}')
    # The Python emulator reads a simple upload as e-mail, and takes a carriage return at its end for part of the
    # boundary: noise that is always the same, and ends otherwise.
    (folder / "state" / "rng é.bin").write_bytes(noise.randbytes(1000) + b"\0")
    (folder / "state" / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def url(emulator: Emulator) -> str:
    return emulator.bucket(f"trees-{secrets.token_hex(4)}") + "/checkpoints/20"


def test_there_and_back(checkpoint: Path, url: str, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert copy_tree(checkpoint, url) == size
    assert sha256_tree(fetch_tree(url, tmp_path / "back")) == sha256_tree(checkpoint)
    assert copy_tree(checkpoint, url) == 0, "what is there is not sent again"
    assert trees(url.rpartition("/")[0]) == ["20"]
    remove_tree(url)
    assert trees(url.rpartition("/")[0]) == []
    remove_tree(url)


def test_a_local_folder_will_do(checkpoint: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "mounted" / "20")
    copy_tree(checkpoint, url)
    assert sha256_tree(fetch_tree(url, tmp_path / "back")) == sha256_tree(checkpoint)
    assert trees(str(tmp_path / "mounted")) == ["20"]
    remove_tree(url)
    assert not Path(url).exists()


@pytest.mark.parametrize("survivors", [0, 1, 2, 3])
def test_killed_while_replacing(
    checkpoint: Path, url: str, tmp_path: Path, survivors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies after `survivors` of the new files: the old copy is still whole, and a second try completes."""
    copy_tree(checkpoint, url)
    old = sha256_tree(checkpoint)
    (checkpoint / "trainer.json").write_text('{"step": 21}')
    fs, _ = bucket_module.filesystem(url)
    put, left = fs.put_file, iter([True] * survivors)

    def dying(*args: object) -> object:
        if not next(left, False):
            raise KeyboardInterrupt
        return put(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "put_file", dying)
        with pytest.raises(KeyboardInterrupt):
            copy_tree(checkpoint, url)
    assert sha256_tree(fetch_tree(url, tmp_path / "old")) == old
    copy_tree(checkpoint, url)
    assert sha256_tree(fetch_tree(url, tmp_path / "new")) == sha256_tree(checkpoint) != old


def test_a_first_copy_that_was_cut_off_is_none(checkpoint: Path, url: str, tmp_path: Path, emulator: Emulator) -> None:
    copy_tree(checkpoint, url)
    emulator.delete(url.split("/")[2], "checkpoints/20/manifest.json")
    assert trees(url.rpartition("/")[0]) == []
    with pytest.raises(UserError, match="no complete copy"):
        fetch_tree(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("damage", ["removed", "altered"])
def test_damage_in_the_bucket_is_found(
    checkpoint: Path, url: str, tmp_path: Path, emulator: Emulator, damage: str
) -> None:
    copy_tree(checkpoint, url)
    name = url.split("/")[2]
    victim = next(key for key in emulator.objects(name) if key.endswith("trainer.json"))
    emulator.delete(name, victim)
    if damage == "altered":
        emulator.put(name, victim, b'{"step": 99}')
    with pytest.raises(UserError, match=r"trainer\.json"):
        fetch_tree(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    emulator.put(name, victim, (checkpoint / "trainer.json").read_bytes())
    assert sha256_tree(fetch_tree(url, tmp_path / "back")) == sha256_tree(checkpoint), "it goes on with what it has"


def test_a_manifest_cannot_lead_out_of_the_folder(url: str, tmp_path: Path, emulator: Emulator) -> None:
    evil = {"folder": "x", "files": {"../../evil": "0" * 64}}
    emulator.put(url.split("/")[2], "checkpoints/20/manifest.json", json.dumps(evil).encode())
    with pytest.raises(UserError, match="outside the folder"):
        fetch_tree(url, tmp_path / "back")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/x", "not supported"),
        ("gs://", "names no bucket"),
        ("gs://no-such-bucket-here/x", "not found|no-such-bucket-here"),
    ],
)
def test_addresses_that_lead_nowhere(checkpoint: Path, emulator: Emulator, url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        copy_tree(checkpoint, url)
    assert len(str(caught.value).splitlines()) == 2


def test_full_and_busy_targets(checkpoint: Path, url: str, tmp_path: Path) -> None:
    copy_tree(checkpoint, url)
    with pytest.raises(UserError, match="there already"):
        fetch_tree(url, checkpoint)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no files"):
        copy_tree(tmp_path / "none", url)


def test_a_dead_service_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed.getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        bucket_module.filesystem("gs://any/prefix")
    assert time.monotonic() - started < 2 * bucket_module.PROBE_TIMEOUT
