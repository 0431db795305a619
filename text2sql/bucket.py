"""Data and models in a bucket: pointing a clone at one, push, pull, verification.

DVC moves the bytes, by its own commands: `dvc push` and `dvc pull` work as they are. The functions here stand around
these commands. They ask the bucket once before the work begins and say in two lines what is missing or refused, where
DVC tries for half a minute and prints a traceback. And they compare each object with its MD5: DVC takes an object for
good when its name is there, and a directory for complete when its listing is.

The layout is DVC's documented one, in cache and bucket alike: the file with MD5 `abcd...` is `files/md5/ab/cd...`; a
directory is `files/md5/ab/cd....dir`, a JSON listing of the MD5s and relative paths of its files.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.progress import track

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: the remote's name in .dvc/config; a clone's own bucket takes over its address in .dvc/config.local
NAME = "storage"
#: what `make remote BUCKET=` takes for no remote at all
NONE = "none"
#: gcsfs otherwise opens every bucket with a gRPC call, to learn whether it is a zonal one. That call ignores
#: STORAGE_EMULATOR_HOST and hangs behind HTTP proxies; the buckets of this project are plain ones.
ENVIRONMENT = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
#: seconds within which the service has to answer the first request
PROBE_TIMEOUT = 5.0

#: what a failure's output says -> its meaning, and what to do; what to do about each sort of damage
_FILE = read_beside(__file__)

Place = Literal["workspace", "cache", "remote", "release"]
State = Literal["missing", "changed", "corrupt", "unexpected"]
#: what DVC calls the states of files
STATES: dict[str, State] = {"modified": "changed", "deleted": "missing", "added": "unexpected", "new": "unexpected"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong: `path` as dvc.lock has it; `oid` the MD5 of an object of cache or remote (a listing's: .dir)."""

    place: Place
    state: State
    path: str
    oid: str = ""

    @property
    def remedy(self) -> str:
        """What to type."""
        known = _FILE["remedies"]
        return str(known.get(f"{self.state} {self.place}", known[self.place])).format(self.oid[:2], self.oid[2:])


# ------------------------------------------------------------------------------------------------- failures explained


@contextmanager
def explained(url: str) -> Iterator[None]:
    """A failure of bucket, network, credentials or disk within the block becomes a `UserError` that names `url`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        causes: list[BaseException] = [error]
        while following := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(following)
        if problem := explain("\n".join(f"{type(cause).__name__}: {cause}" for cause in causes), url):
            raise problem from error
        raise


def explain(text: str, url: str) -> UserError | None:
    """The `UserError` for error output `text` of a command that used `url`; None if it names no known problem."""
    for problem in _FILE["problems"]:
        pattern = re.sub(r"{(.*?)}", r"(?<![\\w/.-])(?:\1)(?![\\w/-]|\\.\\w| files)", problem["pattern"])
        if match := re.search(f".*(?:{pattern}).*", text):
            return UserError(f"{url}: {problem['what']} ({match[0].strip()[:160]})", problem["remedy"])
    return None


def probe(url: str, write: bool = False, settings: Mapping[str, str] = {}) -> None:
    """Ask once, in seconds, whether gs://bucket/folder can be listed and, with `write`, written.

    The write is a real one, of a few bytes that are removed again: permissions can be granted and refused in more ways
    (conditions, folders, retention) than any question about them answers.

    Args:
        settings: of the DVC remote: credentialpath, endpointurl, allow_anonymous_login.

    Raises:
        UserError: no bucket is named, or it is missing, cannot be reached, or refuses.
    """
    from google.cloud import storage

    bucket, _, prefix = url.removeprefix("gs://").strip("/").partition("/")
    if not bucket or "://" not in url:
        raise UserError(f"{url!r} names no bucket", "give gs://NAME/FOLDER")
    with explained(url):
        login = _credentials(settings)
        options = {"api_endpoint": settings["endpointurl"]} if "endpointurl" in settings else None
        client = storage.Client(project=None, credentials=login, client_options=options)
        quick: dict[str, Any] = {"retry": None, "timeout": PROBE_TIMEOUT}
        list(client.list_blobs(bucket, prefix=prefix, max_results=1, **quick))
        if write:
            blob = client.bucket(bucket).blob(f"{prefix}/.text2sql-{secrets.token_hex(4)}".lstrip("/"))
            blob.upload_from_string(b"a test of write access, safe to delete\n", **quick)
            with suppress(Exception):  # who may create but not delete, as CI should, can push all the same
                blob.delete(**quick)


def _credentials(settings: Mapping[str, str]) -> Any:
    """As Google's tools find them, or of the remote's key; none at all will do for a public bucket."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError

    scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
    logging.getLogger("google.auth").setLevel(logging.ERROR)  # else it warns that this machine is none of Google's
    if "allow_anonymous_login" in settings:
        return AnonymousCredentials()
    if key := settings.get("credentialpath"):
        return google.auth.load_credentials_from_file(key, scopes=scopes)[0]
    try:
        return google.auth.default(scopes=scopes)[0]
    except DefaultCredentialsError:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise
        return AnonymousCredentials()


# -------------------------------------------------------------------------------------------------- DVC's commands


def run_dvc(*words: str, url: str = "", fresh: bool = False) -> str:
    """Run `dvc WORDS` and return what it printed; its progress bars go to the terminal.

    Args:
        url: what the command uses, for the explanation of a failure.
        fresh: without DVC's notes on files that it has hashed and remotes that it has read: everything is read again.

    Raises:
        UserError: it failed, explained if possible.
    """
    # On a terminal DVC shows progress bars. If it fails there, it runs once more, so that its words can be read: what
    # has arrived is kept, so the second try is short, and may succeed.
    for stderr in [None, subprocess.PIPE] if sys.stderr.isatty() else [subprocess.PIPE]:
        with tempfile.TemporaryDirectory() as notes:
            env = ENVIRONMENT | os.environ | ({"DVC_SITE_CACHE_DIR": notes} if fresh else {})
            command = [sys.executable, "-m", "dvc", *words]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    last = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    failure = UserError(f"dvc {words[0]}: {last[-1] if last else 'failed'}", "`text2sql verify`, `dvc doctor`")
    raise explain(done.stderr, url or f"dvc {words[0]}") or failure


# ------------------------------------------------------------------------------------------------ the clone's bucket


def configure(url: str, shared: bool = False, anonymous: bool = False) -> str:
    """Point this clone's DVC remote at `url`; returns what can be done there.

    Written to .dvc/config.local, which git ignores: one's own bucket is no business of the others. With `shared` it
    goes to .dvc/config, to be committed: a team's bucket, which `dvc get` and `dvc import` elsewhere then use too.

    Raises:
        UserError: not gs://, or the bucket is missing, unreachable or not readable; nothing is then changed.
    """
    if url == NONE:
        return without_remote()
    if not url.startswith("gs://"):
        raise UserError(f"{url!r} is no bucket", f"make remote BUCKET=gs://NAME/FOLDER, or BUCKET={NONE}")
    probe(url, settings={"allow_anonymous_login": "true"} if anonymous else {})
    able, level = "pull", [] if shared else ["--local"]
    try:
        if not anonymous:
            probe(url, write=True)
            able = "pull and push"
    except UserError as error:
        able = f"pull only ({error})"
    if shared:  # what this clone alone was told comes before what all share
        for words in (("config", "--local", "--unset", "core.remote"), ("remote", "remove", "--local", NAME)):
            with suppress(UserError):  # it was told nothing
                run_dvc(*words)
    run_dvc("remote", "add", "--force", "--default", *level, NAME, url.rstrip("/"))
    # verify: what comes from the bucket is compared with its hash, which DVC otherwise leaves out.
    for option in ["verify", "allow_anonymous_login"][: 1 + anonymous]:
        run_dvc("remote", "modify", *level, NAME, option, "true")
    return f"{url} is this clone's remote (.dvc/config{'' if shared else '.local'}): {able}"


def without_remote() -> str:
    """Leave this clone without a default remote (in .dvc/config.local); returns what was done.

    `dvc exp run` in a clone whose cache is empty looks for each folder of dvc.lock in the default remote; where nothing
    answers, gcsfs asks six times, half a minute for each.
    """
    run_dvc("config", "--local", "core.remote", "")
    return "this clone works without a remote (.dvc/config.local); `make remote BUCKET=gs://...` sets one"


def settle() -> str:
    """Once in a new clone: keep the project's bucket if it can be read from here, otherwise work without one."""
    url = dvc_settings().get(f"remote.{NAME}.url", "")
    if Path(".dvc/config.local").exists() or not url.startswith("gs://"):
        return ""
    try:
        probe(url)
    except UserError as error:
        return f"{error.what}: {without_remote()}"
    return ""


def dvc_settings() -> dict[str, str]:
    """What `dvc config --list` says of all levels together."""
    if not Path(".dvc").is_dir():
        raise UserError("this is no DVC repository", "run this in the clone's root")
    lines = run_dvc("config", "--list").splitlines()
    return dict(line.partition("=")[::2] for line in lines if "=" in line)


@dataclasses.dataclass(frozen=True)
class Store:
    """A bucket's folder, or one on this machine. `root` is its path in `fs`; `url` is for people."""

    fs: AbstractFileSystem
    root: str
    url: str

    def path(self, oid: str) -> str:
        """The path of an object of DVC's."""
        return f"{self.root}/files/md5/{oid[:2]}/{oid[2:]}"

    def listing(self) -> dict[str, dict[str, Any]]:
        """The facts of every object of DVC's that is there, by its path."""
        self.fs.invalidate_cache()
        return self.fs.find(f"{self.root}/files/md5", detail=True)

    def md5(self, path: str, facts: dict[str, Any]) -> str:
        """MD5 of an object: the one that the service computed when it took the object, where it has one (Google has
        none for composed objects), otherwise that of its bytes."""
        if "md5Hash" in facts:
            return base64.b64decode(facts["md5Hash"]).hex()
        with self.fs.open(path, "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()


def open_cache(settings: dict[str, str]) -> Store:
    """This clone's cache; `settings` are DVC's."""
    return open_store(str(Path(".dvc", settings.get("cache.dir", "cache")).resolve()))


def open_remote(settings: dict[str, str], write: bool = False) -> Store:
    """The default remote, which has answered; `settings` are DVC's.

    Raises:
        UserError: there is none, or it cannot be reached, is missing, or refuses.
    """
    if not (name := settings.get("core.remote")):
        raise UserError("this clone has no DVC remote", "make remote BUCKET=gs://NAME/FOLDER")
    options = {key.rpartition(".")[2]: text for key, text in settings.items() if key.startswith(f"remote.{name}.")}
    return open_store(options["url"], write, options)


def open_store(url: str, write: bool = False, settings: Mapping[str, str] = {}) -> Store:
    """What `url` names: gs://bucket/folder, which has answered, or a folder.

    Raises:
        UserError: another scheme, or the bucket is missing, cannot be reached, or refuses.
    """
    import fsspec

    scheme = url.partition(":/")[0] if ":/" in url else ""
    if scheme not in ("", "gs", "file"):
        raise UserError(f"{url}: {scheme}:// is not supported", "give gs://bucket/folder or a local folder")
    options: dict[str, Any] = {}
    if scheme == "gs":
        probe(url, write, settings)
        os.environ |= ENVIRONMENT | os.environ
        token = "anon" if "allow_anonymous_login" in settings else settings.get("credentialpath")
        options = {"token": token, "endpoint_url": settings.get("endpointurl"), "use_listings_cache": False}
    fs, path = fsspec.url_to_fs(url, **options)
    return Store(fs, path.rstrip("/"), url)


# ------------------------------------------------------------------------------------------------------- verification


def objects(*stores: Store) -> dict[str, str]:
    """What DVC keeps of the outputs in dvc.lock and *.dvc files, by MD5, with a path of each; of directories, also the
    files in them.

    A listing is read from the first of `stores` that has it whole; without one its files are unknown, and the listing
    itself is missing in every store.
    """
    import dvc.api

    fs, named, folders = dvc.api.DVCFileSystem(), {}, ["/"]
    while folders:
        for info in fs.ls(folders.pop(), detail=True, dvc_only=True):
            path = info["name"].lstrip("/")
            if oid := info.get("md5"):
                named[oid] = path
                named |= {entry["md5"]: f"{path}/{entry['relpath']}" for entry in _listing(oid, stores)}
            elif info["type"] == "directory":
                folders.append(info["name"])
    if not named:
        raise UserError("dvc.lock names no files", "`dvc repro` makes them")
    return named


def _listing(oid: str, stores: Iterable[Store]) -> list[dict[str, str]]:
    """The entries of a directory's listing; none if `oid` is a file's, or no store has the listing."""
    for store in stores if oid.endswith(".dir") else ():
        with suppress(FileNotFoundError):
            text = store.fs.cat_file(store.path(oid))
            if hashlib.md5(text).hexdigest() == oid.removesuffix(".dir"):
                return list(json.loads(text))
    return []


def check_store(place: Place, store: Store, named: dict[str, str]) -> list[Finding]:
    """Objects that `store` lacks, or whose bytes are not what their name says."""
    findings = []
    with explained(store.url):
        there = store.listing()
        for oid, path in track(named.items(), place):
            if (facts := there.get(store.path(oid))) is None:
                findings.append(Finding(place, "missing", path, oid))
            elif store.md5(store.path(oid), facts) != oid.removesuffix(".dir"):
                findings.append(Finding(place, "corrupt", path, oid))
    return findings


def check_workspace() -> list[Finding]:
    """Files that are not as dvc.lock has them: outputs and dependencies, every byte read; of a directory, each file."""
    findings: dict[str, str] = {}
    changes = json.loads(run_dvc("data", "status", "--granular", "--json", fresh=True)).get("uncommitted", {})
    renamed = changes.pop("renamed", [])  # of a pair, the one name is missing and the other is not expected
    pairs = {"deleted": [pair["old"] for pair in renamed], "added": [pair["new"] for pair in renamed]}
    for word, paths in (*pairs.items(), *changes.items()):
        findings |= {path: word for path in paths if not path.endswith("/")}
    for changed in json.loads(run_dvc("status", "--json", fresh=True)).values():
        for part in changed:
            if isinstance(part, dict):  # else "changed command", which is no file
                given = part.get("changed deps", {}) | part.get("changed outs", {})
                # of a folder, the files are found already
                inside = {path for path in given for other in findings if PurePosixPath(other).is_relative_to(path)}
                findings |= {path: word for path, word in given.items() if path not in inside and isinstance(word, str)}
    # Other words are of parameters, or of what the cache lacks.
    states = {path: STATES[word] for path, word in findings.items() if word in STATES}
    return [Finding("workspace", state, path) for path, state in sorted(states.items())]


def verify_clone(remote_too: bool = True) -> tuple[list[str], list[Finding]]:
    """Workspace, cache and remote: a line for each, and what is wrong.

    A remote that does not answer is said and is no finding: the clone may well be whole without one.
    """
    settings = dvc_settings()
    findings = check_workspace()
    stores: dict[Place, Store] = {"cache": open_cache(settings)}
    unreachable = "left out"
    if remote_too:
        try:
            stores["remote"] = open_remote(settings)
        except UserError as error:
            unreachable = f"not checked: {error}"
    named = objects(*stores.values())
    for place, store in stores.items():
        findings += check_store(place, store, named)
    there = f"{len(named)} objects in {stores['remote'].url}" if "remote" in stores else unreachable
    return ["workspace  all that dvc.lock names", f"cache      {len(named)} objects", f"remote     {there}"], findings


# ------------------------------------------------------------------------------------------------------ push and pull


def push_outputs(everywhere: bool = False) -> str:
    """Push what dvc.lock names (`everywhere`: of all branches and tags), look at the bucket, mend what is wrong there.

    Raises:
        UserError: the cache has a corrupt object, the bucket refuses, or this clone cannot mend what is wrong.
    """
    settings = dvc_settings()
    cache, remote = open_cache(settings), open_remote(settings, write=True)
    named = objects(cache, remote)
    lacking = check_store("cache", cache, named)
    if corrupt := [finding for finding in lacking if finding.state == "corrupt"]:
        raise UserError(f"nothing was pushed: {corrupt[0].path} is corrupt in the cache", corrupt[0].remedy)
    here = named.keys() - {finding.oid for finding in lacking}
    # Damaged listings first: DVC reads them from the bucket, and gives up.
    damaged = [finding.oid for finding in check_store("remote", remote, named) if finding.state == "corrupt"]
    mended = _send_again(cache, remote, here.intersection(damaged))
    said = run_dvc("push", *(["--all-branches", "--all-tags"] if everywhere else []), url=remote.url)
    if wrong := check_store("remote", remote, named):
        mended += _send_again(cache, remote, here.intersection(finding.oid for finding in wrong))
        if wrong := check_store("remote", remote, named):
            what = f"{remote.url}: {wrong[0].path} is {wrong[0].state} (and {len(wrong) - 1} more)"
            raise UserError(what, wrong[0].remedy)
    return f"{said}; {mended} mended; {len(named)} objects in {remote.url}, all as dvc.lock says"


def _send_again(cache: Store, remote: Store, oids: Iterable[str]) -> int:
    """Send objects of the cache whatever the bucket has under their names; a listing after what it lists."""
    ordered = sorted(oids, key=lambda oid: oid.endswith(".dir"))
    with explained(remote.url):
        for oid in track(ordered, "mending"):
            remote.fs.put_file(cache.path(oid), remote.path(oid))
    return len(ordered)


def pull_outputs() -> str:
    """Pull what dvc.lock names into the workspace; returns what DVC says.

    Raises:
        UserError: the bucket refuses, or an object is missing or corrupt there.
    """
    url = open_remote(dvc_settings()).url
    # fresh: a pull that was killed while it read the listings has noted some of them; DVC takes them for all.
    return f"{run_dvc('pull', url=url, fresh=True)} (from {url})"


if __name__ == "__main__":
    with suppress(UserError):  # a source archive without git: nothing to settle
        if said := settle():
            print(said)
