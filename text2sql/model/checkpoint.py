"""Checkpoints that a training can be continued from, whatever stopped it.

They live in `checkpoints/<fingerprint>/` of the repository's main folder, outside of DVC's outputs (DVC deletes those
before a stage runs). The fingerprint covers everything that decides the adapter: configuration, data, base model, code,
library versions, kind of processor. So another configuration never resumes from them.

The trainer writes a checkpoint file by file, and a power cut can leave a half. A checkpoint counts only with its
*seal*, a list of its files' checksums that is written last, after the files have reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text2sql.files import read_json, sha256_tree, write_json

SEAL = "seal.json"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """One hash of everything that decides the adapter; `parts` must be plain containers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def folder(root: Path, identity: str) -> Path:
    """Where the checkpoints of a training with that fingerprint are."""
    return root / "checkpoints" / identity[:16]


def seal(checkpoint: Path, **facts: Any) -> None:
    """Declare `checkpoint` complete; `facts` are kept with it.

    Files first reach the disk, then the seal does: a power cut in between leaves a checkpoint without a seal.
    """
    for path in checkpoint.rglob("*"):
        _flush(path)
    write_json(checkpoint / SEAL, {"files": sha256_tree(checkpoint), **facts})
    _flush(checkpoint / SEAL)
    _flush(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether the seal is there and every file has the bytes that it had when it was sealed."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_bytes())["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    files = sha256_tree(checkpoint)
    files.pop(SEAL)
    return files == sealed


def last_whole(folder: Path) -> Path | None:
    """The latest whole checkpoint of `folder`; halves are deleted, so that they cannot be taken for one."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)  # with several processes, each of them sees it and deletes
    return None


def facts(checkpoint: Path) -> dict[str, Any]:
    """What `seal` was told."""
    return {key: value for key, value in read_json(checkpoint / SEAL).items() if key != "files"}


def prune(folder: Path, keep: int) -> None:
    """Delete all but the latest `keep` checkpoints."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)[keep:]:
        shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written, by its name; -1 where that tells none."""
    suffix = checkpoint.name.rpartition("-")[2]
    return int(suffix) if suffix.isdigit() else -1


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
