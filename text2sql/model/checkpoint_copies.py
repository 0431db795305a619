"""Copies of checkpoints in a bucket, or in the folder of a mounted one (`train.checkpoint_copy`).

Another machine takes a training up from there. An object appears in a bucket whole or not at all, so a copy that has
the seal, which is copied last and removed first, is complete.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from text2sql.bucket import explained, open_store
from text2sql.errors import UserError
from text2sql.model.checkpoint import SEAL, is_whole, last_whole, step_of


def copy_out(checkpoint: Path, url: str) -> None:
    """Copy a sealed checkpoint to `url`/<fingerprint>/, and remove the older copies there.

    Raises:
        UserError: the bucket cannot be reached or refuses.
    """
    place = f"{url.rstrip('/')}/{checkpoint.parent.name}"
    put_copy(checkpoint, f"{place}/{checkpoint.name}")
    for name in copies_at(place):
        if step_of(Path(name)) < step_of(checkpoint):
            remove_copy(f"{place}/{name}")


def fetch_newest(folder: Path, url: str) -> None:
    """Fetch the latest copy from `url`/<fingerprint>/ into `folder`, if it is later than what is there.

    Raises:
        UserError: the bucket cannot be reached, or a copy is damaged.
    """
    here, place = last_whole(folder), f"{url.rstrip('/')}/{folder.name}"
    newest = max(copies_at(place), key=lambda name: step_of(Path(name)), default="")
    if newest and (here is None or step_of(Path(newest)) > step_of(here)):
        get_copy(f"{place}/{newest}", folder / newest)
        if not is_whole(folder / newest):
            shutil.rmtree(folder / newest)
            raise UserError(f"{place}/{newest} is damaged", "remove it there: the training goes on without it")


def forget_copies(folder: Path, url: str) -> None:
    """Remove the copies of a training that has ended."""
    place = f"{url.rstrip('/')}/{folder.name}"
    for name in copies_at(place):
        remove_copy(f"{place}/{name}")
    remove_copy(place)  # what copies that were cut off left there


def put_copy(checkpoint: Path, url: str) -> None:
    """Copy the files of a checkpoint to `url`, the seal last. A complete copy is kept as it is, and not sent again.

    Raises:
        UserError: the bucket cannot be reached, is missing, or refuses.
    """
    place = open_store(url)
    with explained(url):
        if place.fs.exists(f"{place.root}/{SEAL}"):
            return
        files = sorted((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f == checkpoint / SEAL)
        for file in files:
            target = f"{place.root}/{file.relative_to(checkpoint).as_posix()}"
            place.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            place.fs.put_file(str(file), target)


def copies_at(url: str) -> list[str]:
    """Names of the complete copies below `url`."""
    place = open_store(url)
    with explained(url):
        return sorted(path.split("/")[-2] for path in place.fs.glob(f"{place.root}/*/{SEAL}"))


def get_copy(url: str, target: Path) -> None:
    """Fetch the files at `url` into the folder `target`.

    Raises:
        UserError: a name leads out of `target`, the disk is full, or the bucket cannot be reached or refuses.
    """
    place = open_store(url)
    with explained(url):
        for path in place.fs.find(place.root):
            local = target / path.removeprefix(f"{place.root}/")
            if not local.resolve().is_relative_to(target.resolve()):  # the bucket may be anyone's
                raise UserError(f"{url}: {path!r} lies outside the folder", "do not use this copy")
            local.parent.mkdir(parents=True, exist_ok=True)
            place.fs.get_file(path, str(local))


def remove_copy(url: str) -> None:
    """Remove what is at `url`, the seal first, so that it never looks complete; nothing there is no error."""
    place = open_store(url)
    with explained(url), suppress(FileNotFoundError):
        with suppress(FileNotFoundError):
            place.fs.rm_file(f"{place.root}/{SEAL}")
        place.fs.rm(place.root, recursive=True)
