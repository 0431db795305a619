"""A folder in a bucket, whole or not at all: training checkpoints in gs://.

A copy lies at `url` as `<digest>/...`, a folder named after its content, and `manifest.json`, written last, which names
that folder and the sha256 of each file. A writer that is killed leaves files that no manifest names; a copy that
replaces another switches over with that one object, so a reader has the old tree or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.errors import UserError
from text2sql.files import sha256, sha256_tree
from text2sql.storage.bucket import explained, filesystem

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MANIFEST = "manifest.json"


def copy_tree(source: Path, url: str) -> int:
    """Copy the files below `source` to `url`; returns the bytes sent.

    `url` is gs://bucket/folder, or a local folder (a mounted bucket). Killed halfway, it is run again and goes on; what
    was complete at `url` before stays complete until the new copy is. One writer to one `url` at a time.

    Raises:
        UserError: `source` has no files, or the bucket cannot be reached, is missing, or refuses (two lines: what and
            remedy). What is at `url` is then as it was.
    """
    files = sha256_tree(source)
    if not files:
        raise UserError(f"{source} has no files to copy", "give the folder of a checkpoint")
    folder = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    fs, root = filesystem(url)
    sent = 0
    with explained(url):
        there = _sizes(fs, f"{root}/{folder}")
        for name in files:
            path, target = source / name, f"{root}/{folder}/{name}"
            # An object is there whole or not at all, and this folder is named after its content: its size will do.
            if there.get(target) == path.stat().st_size:
                continue
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(path), target)
            sent += path.stat().st_size
        fs.pipe_file(f"{root}/{MANIFEST}", json.dumps({"folder": folder, "files": files}, indent=2).encode())
        if old := [p for p in _sizes(fs, root) if not p.startswith((f"{root}/{folder}/", f"{root}/{MANIFEST}"))]:
            fs.rm(old)
    return sent


def fetch_tree(url: str, target: Path) -> Path:
    """Fetch what `copy_tree` put at `url` into `target`, which must not exist or be empty; returns `target`.

    Files arrive in `.NAME.partial` beside `target`, each held against its sha256, and the folder is renamed at the end:
    `target` is complete or absent. Killed halfway, it goes on where it was.

    Raises:
        UserError: there is no complete copy at `url`, a file of it is missing or altered, `target` has something in
            it, the disk is full, or the bucket cannot be reached or refuses.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already", "give another folder, or remove it first")
    fs, root = filesystem(url)
    manifest = _manifest(fs, root, url)
    partial = target.with_name(f".{target.name}.partial")
    for name, digest in manifest["files"].items():
        path = partial / name
        if path.exists() and sha256(path) == digest:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(f"{url} ({name})"):
            fs.get_file(f"{root}/{manifest['folder']}/{name}", str(path))
        if sha256(path) != digest:
            path.unlink()
            raise UserError(f"{url}: {name} is not what was put there", "copy it there again from where it is whole")
    for extra in set(sha256_tree(partial)) - set(manifest["files"]):
        (partial / extra).unlink()
    if target.exists():
        target.rmdir()
    partial.replace(target)
    return target


def trees(url: str) -> list[str]:
    """Names of the complete trees directly below `url`, sorted; empty if there is nothing there."""
    fs, root = filesystem(url)
    with explained(url):
        return sorted(path.split("/")[-2] for path in _sizes(fs, root) if _is_manifest_below(path, root))


def remove_tree(url: str) -> None:
    """Remove what is at `url`, the manifest first, so that it is never half there; nothing there is no error."""
    fs, root = filesystem(url)
    with explained(url):
        paths = sorted(_sizes(fs, root), key=lambda path: path != f"{root}/{MANIFEST}")
        if paths:
            fs.rm_file(paths[0])
            if paths[1:]:
                fs.rm(paths[1:])
        if fs.protocol in ("file", ("file", "local")) and Path(root).exists():
            shutil.rmtree(root)


def _is_manifest_below(path: str, root: str) -> bool:
    below = path.removeprefix(f"{root}/").split("/")
    return len(below) == 2 and below[1] == MANIFEST


def _manifest(fs: AbstractFileSystem, root: str, url: str) -> dict[str, Any]:
    try:
        with explained(url):
            manifest: dict[str, Any] = json.loads(fs.cat_file(f"{root}/{MANIFEST}"))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            what = f"{url} holds no complete copy (no {MANIFEST})"
            raise UserError(what, "copy it there first, or check the address") from None
        raise
    for name in manifest["files"]:
        # The bucket may be anyone's: a name must not lead out of the folder.
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{url}: {MANIFEST} names {name!r}, outside the folder", "do not use this copy")
    return manifest


def _sizes(fs: AbstractFileSystem, root: str) -> dict[str, int]:
    """Size of each object below `root`, by its path; empty if there is none."""
    try:
        return {path: info["size"] for path, info in fs.find(root, detail=True).items() if info["type"] == "file"}
    except FileNotFoundError:
        return {}
