"""Reading and writing the pipeline's files: JSON, JSON lines, CSV, checksums; and what git says of them.

Every write goes to a temporary name beside its target and is renamed, so a file is either whole or absent.
Text is UTF-8 with `\\n` line ends and keys in the order given, so equal content means equal bytes on every machine.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from text2sql.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write in the block, at whose end it is at `path`, in place of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # where the disk is full


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The name of a folder to make in the block, at whose end it is at `path`, where no other is."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a kill left
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, making its folder."""
    with whole_file(path) as out:
        out.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "run `dvc repro`, which makes it") from None
    except (ValueError, RecursionError) as error:  # also no UTF-8, a number of thousands of digits, nested too deeply
        raise UserError(f"{path} is not valid JSON: {error}", "restore or make it again") from None


def read_beside(module: str) -> Any:
    """The YAML file that lies beside a module under its name; `module`: the module's `__file__`."""
    import yaml

    return yaml.safe_load(Path(module).with_suffix(".yaml").read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file.

    Raises:
        UserError: the file is missing, or a line is not a JSON object (with its number).
    """
    if not path.exists():
        raise UserError(f"{path} is missing", "run `dvc repro`, which makes it")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not valid JSON: {error}", "mend that line") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object", "mend that line")
            yield row


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, by its POSIX path relative to `root`, sorted."""
    return {p.relative_to(root).as_posix(): sha256(p) for p in sorted(root.rglob("*")) if p.is_file()}


def digest(path: Path) -> str:
    """One SHA-256 for a file, or for a folder (of its files' paths and checksums; compiled Python left out)."""
    if path.is_file():
        return sha256(path)
    lines = [f"{name} {sum_}\n" for name, sum_ in sha256_tree(path).items() if "__pycache__/" not in name]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_apart(key: str, given: str | Path, output: Path) -> None:
    """Refuse an input of the user's that writing `output` would empty; `key`: the parameter that names it.

    Raises:
        UserError: one of the two is the other, or lies in it.
    """
    one, other = Path(given).expanduser().resolve(), output.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        what = f"{key}={given} cannot be read from there: the stage empties {output} and writes it anew"
        raise UserError(what, f"copy it to a place that is neither in {output} nor around it, and name that")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for `folder`, which is made; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's file system may have no locks: nobody waits there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def repository_root() -> Path:
    """The repository's main folder: DVC names it to its stages, also to those that run in a temporary copy."""
    if named := os.environ.get("DVC_ROOT"):
        return Path(named).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def git(*words: str) -> str:
    """What `git WORDS` prints; nothing where it fails, or there is no git."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def commit_of(rev: str, repo: str = ".") -> str | None:
    """The commit that `rev` stands for in a repository on this machine; None where git cannot tell."""
    return git("-C", repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}") or None
