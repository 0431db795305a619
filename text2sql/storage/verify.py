"""Every file of dvc.lock against its hash, in workspace, cache and bucket; the release against its manifest.

`dvc status` compares names, sizes and times, and believes its own notes about cache and remote. Here every byte is read
again: what was truncated, flipped or swapped behind DVC's back is found. In a Google bucket the MD5 that the service
computed when it took the object stands for the bytes; from any other endpoint they are fetched.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from text2sql.errors import UserError
from text2sql.files import digest, read_json, sha256_tree
from text2sql.progress import track
from text2sql.storage.bucket import GOOGLE, endpoint, explained
from text2sql.storage.remote import address, open_remote, repository

if TYPE_CHECKING:
    from dvc.data_cloud import Remote
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

Place = Literal["workspace", "cache", "remote", "release"]
State = Literal["missing", "changed", "corrupt", "unexpected"]
RELEASE, ADAPTER = Path("models/release"), Path("models/adapter")
MANIFEST = "manifest.json"
#: written by the release stage over the adapter's own
CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong: `path` as dvc.lock has it, `oid` the MD5 that it should have (with .dir for a directory)."""

    place: Place
    state: State
    path: str
    oid: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or directory of dvc.lock with its MD5. `cached`: DVC keeps it, so cache and remote must have it."""

    path: str
    oid: str
    cached: bool


def remedy(finding: Finding) -> str:
    """What to type."""
    if finding.place == "cache" and finding.state == "corrupt":
        return f"rm -f .dvc/cache/files/md5/{finding.oid[:2]}/{finding.oid[2:]} && dvc pull (or dvc repro)"
    return {
        "workspace": "`dvc pull` brings it back as it was; `dvc repro` if the change was meant",
        "cache": "`dvc pull`, or `dvc repro` to make it again",
        "remote": "`text2sql push` in a clone that has it",
        "release": f"`dvc checkout {RELEASE}`, or `dvc repro release`",
    }[finding.place]


def entries(repo: Repo) -> list[Entry]:
    """What dvc.lock (and *.dvc files) names, outputs and dependencies, each path and hash once."""
    from dvc.dependency.param import ParamsDependency

    found: dict[tuple[str, str], bool] = {}
    for stage in repo.index.stages:
        for item in [*stage.outs, *(d for d in stage.deps if not isinstance(d, ParamsDependency))]:
            if item.hash_info and item.hash_info.value and item.protocol == "local":
                key = (str(repo.fs.relpath(item.fs_path, repo.root_dir)), str(item.hash_info.value))
                found[key] = found.get(key, False) or (item in stage.outs and item.use_cache)
    if not found:
        raise UserError("dvc.lock names no files", "`dvc repro` makes them")
    return [Entry(path, oid, cached) for (path, oid), cached in sorted(found.items())]


def objects(entries: Iterable[Entry], *stores: HashFileDB) -> dict[str, str]:
    """The objects that DVC keeps of `entries`, by MD5, with a path of each: the entries, and what their listings name.

    A listing is read from the first of `stores` that has it whole; without one its files are unknown, and the listing
    itself is found missing.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry.cached:
            found[entry.oid] = entry.path
            found |= {oid: f"{entry.path}/{name}" for name, oid in _listing(entry.oid, stores).items()}
    return found


def _listing(oid: str, stores: Iterable[HashFileDB]) -> dict[str, str]:
    """MD5 of each file of the directory `oid`, by its relative path; empty if `oid` is none or no store has it."""
    import json

    for store in stores if oid.endswith(".dir") else ():
        try:
            raw = store.fs.cat_file(store.oid_to_path(oid))
        except FileNotFoundError:
            continue
        if hashlib.md5(raw).hexdigest() == oid.removesuffix(".dir"):
            return {entry["relpath"]: entry["md5"] for entry in json.loads(raw)}
    return {}


def check_workspace(repo: Repo, entries: list[Entry]) -> list[Finding]:
    """Files that are not there or not as dvc.lock has them; of a directory, each file of it."""
    return [finding for entry in track(entries, "workspace") for finding in _check_entry(repo, entry, repo.cache.local)]


def _check_entry(repo: Repo, entry: Entry, cache: HashFileDB) -> list[Finding]:
    path = Path(repo.root_dir) / entry.path
    if not path.exists():
        return [Finding("workspace", "missing", entry.path, entry.oid)]
    if not entry.oid.endswith(".dir"):
        same = path.is_file() and _md5(path) == entry.oid
        return [] if same else [Finding("workspace", "changed", entry.path, entry.oid)]
    actual, files = _hash_directory(repo, path)
    if actual == entry.oid:
        return []
    expected = _listing(entry.oid, [cache])
    if not expected:
        return [Finding("workspace", "changed", entry.path, entry.oid)]
    findings = [Finding("workspace", "unexpected", f"{entry.path}/{n}") for n in sorted(files.keys() - expected.keys())]
    for name, oid in sorted(expected.items()):
        if files.get(name) != oid:
            state: State = "changed" if name in files else "missing"
            findings.append(Finding("workspace", state, f"{entry.path}/{name}", oid))
    return findings


def _hash_directory(repo: Repo, path: Path) -> tuple[str, dict[str, str]]:
    """DVC's hash of a directory and the MD5 of each file in it, read anew (a store without state remembers nothing)."""
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    if not path.is_dir():
        return "", {}
    store = HashFileDB(localfs, repo.cache.local.path, hash_name="md5")
    _, _, tree = build(store, str(path), localfs, "md5", dry_run=True, ignore=repo.dvcignore)
    return str(tree.oid), {"/".join(key): info.value for key, _, info in tree}  # type: ignore[attr-defined]


def check_cache(cache: HashFileDB, objects: dict[str, str]) -> list[Finding]:
    """Objects that the cache lacks, or whose bytes are not what their name says."""
    findings = []
    for oid, path in track(objects.items(), "cache"):
        file = Path(cache.oid_to_path(oid))
        if not file.is_file():
            findings.append(Finding("cache", "missing", path, oid))
        elif _md5(file) != oid.removesuffix(".dir"):
            findings.append(Finding("cache", "corrupt", path, oid))
    return findings


def check_remote(remote: Remote, objects: dict[str, str]) -> list[Finding]:
    """Objects that the remote lacks, or whose bytes are not what their name says.

    Raises:
        UserError: the remote cannot be reached, or refuses.
    """
    store = remote.odb
    with explained(address(remote)):
        there = _listed(store)
        findings = []
        for oid, path in track(objects.items(), "remote"):
            info = there.get(store.oid_to_path(oid).strip("/"))
            if info is None:
                findings.append(Finding("remote", "missing", path, oid))
            elif _remote_md5(store, oid, info) != oid.removesuffix(".dir"):
                findings.append(Finding("remote", "corrupt", path, oid))
    return findings


def _listed(store: HashFileDB) -> dict[str, dict[str, Any]]:
    """Metadata of every object of the remote, by its path."""
    fs = store.fs.fs
    fs.invalidate_cache()
    try:
        return {path.strip("/"): info for path, info in fs.find(store.path, detail=True).items()}
    except FileNotFoundError:
        return {}


def _remote_md5(store: HashFileDB, oid: str, info: dict[str, Any]) -> str:
    """MD5 of an object: Google's own where it has one (not of composed objects), otherwise of the bytes."""
    if "md5Hash" in info and endpoint(store.fs.fs_args.get("endpoint_url")) == GOOGLE:
        return base64.b64decode(info["md5Hash"]).hex()
    with store.fs.open(store.oid_to_path(oid), "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()  # type: ignore[arg-type]


def check_release(folder: Path = RELEASE, adapter: Path | None = ADAPTER) -> list[Finding]:
    """The released files against manifest.json, which also has to agree with the `adapter` they were copied from.

    Raises:
        UserError: manifest.json is missing or broken.
    """
    manifest = read_json(folder / MANIFEST)
    expected: dict[str, str] = manifest["files"]
    actual = sha256_tree(folder)
    findings = [Finding("release", "missing", f"{folder}/{name}") for name in sorted(expected.keys() - actual.keys())]
    for name, value in sorted(actual.items()):
        if name in expected and value != expected[name]:
            findings.append(Finding("release", "changed", f"{folder}/{name}"))
        elif name not in expected and name != MANIFEST:
            findings.append(Finding("release", "unexpected", f"{folder}/{name}"))
    if adapter is not None and adapter.exists():
        source = {name: value for name, value in sha256_tree(adapter).items() if name != CARD}
        differing = sorted(name for name, value in source.items() if expected.get(name) != value)
        findings += [Finding("release", "changed", f"{adapter}/{name}") for name in differing]
        inputs = sorted(name for name, value in manifest["made_of"].items() if _differs(Path(name), value))
        findings += [Finding("release", "changed", name) for name in inputs]
    return findings


def _differs(path: Path, expected: str) -> bool:
    return path.exists() and digest(path) != expected


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def verify(remote_too: bool = True) -> tuple[list[str], list[Finding]]:
    """All of it: a line for each place, and what is wrong.

    A remote that does not answer is said and is no finding: the clone may well be whole without one.
    """
    with repository() as repo:
        named = entries(repo)
        cache, remote, unreachable = repo.cache.local, None, "left out"
        if remote_too:
            try:
                remote = open_remote(repo)
            except UserError as error:
                unreachable = f"not checked: {error}"
        kept = objects(named, cache, *([remote.odb] if remote else []))
        found = check_workspace(repo, named) + check_cache(cache, kept)
        if remote:
            found += check_remote(remote, kept)
            unreachable = f"{len(kept)} objects in {address(remote)}"
    lines = [
        f"workspace  {len(named)} paths of dvc.lock",
        f"cache      {len(kept)} objects",
        f"remote     {unreachable}",
    ]
    if (RELEASE / MANIFEST).exists():
        found += check_release()
        lines.append(f"release    {RELEASE} against its manifest, the adapter and what that was made of")
    else:
        lines.append(f"release    not checked: {RELEASE / MANIFEST} is not here")
    return lines, found
