"""The DVC remote: pointing a clone at a bucket, and opening it so that what is missing or refused is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.errors import UserError
from text2sql.storage.bucket import answers, check_key, explained, filesystem, probe, readable

if TYPE_CHECKING:
    from dvc.data_cloud import Remote
    from dvc.repo import Repo

#: the remote's name in .dvc/config; a clone's own bucket takes over its address in .dvc/config.local
NAME = "storage"
#: what `make remote BUCKET=` takes for no remote at all
NONE = "none"


def configure(url: str, shared: bool = False, anonymous: bool = False) -> str:
    """Point this clone's DVC remote at `url`; returns what can be done there.

    Written to .dvc/config.local, which git ignores: one's own bucket is no business of the others. With `shared` it
    goes to .dvc/config, to be committed: a team's bucket, which `dvc get` and `dvc import` elsewhere then use too.

    Raises:
        UserError: not gs://, or the bucket is missing, unreachable or not readable; nothing is then changed.
    """
    if url == NONE:
        return without()
    if not url.startswith("gs://"):
        raise UserError(f"{url!r} is no bucket", f"make remote BUCKET=gs://NAME/FOLDER, or BUCKET={NONE}")
    fs, path = filesystem(url, anonymous)
    probe(fs, path, write=False)
    able = "pull and push"
    if anonymous:
        able = "pull"
    else:
        try:
            probe(fs, path, write=True)
        except UserError as error:
            able = f"pull only ({error})"
    with repository() as repo, repo.config.edit("repo" if shared else "local") as config:
        config.setdefault("core", {})["remote"] = NAME
        # verify: what comes from the bucket is held against its hash, which DVC otherwise leaves out.
        options = {"url": url.rstrip("/"), "verify": True} | ({"allow_anonymous_login": True} if anonymous else {})
        config.setdefault("remote", {})[NAME] = options
    return f"{url} is this clone's remote (.dvc/config{'' if shared else '.local'}): {able}"


def without() -> str:
    """Leave this clone without a default remote (in .dvc/config.local); returns what was done.

    `dvc exp run` in a clone whose cache is empty looks for each folder of dvc.lock in the default remote; where nothing
    answers, gcsfs asks six times, half a minute for each.
    """
    with repository() as repo, repo.config.edit("local") as config:
        config.setdefault("core", {})["remote"] = ""
    return "this clone works without a remote (.dvc/config.local); `make remote BUCKET=gs://...` sets one"


def settle() -> str:
    """Once in a new clone: keep the project's bucket if it can be read from here, otherwise work `without` one."""
    with repository() as repo:
        url = repo.config["remote"].get(NAME, {}).get("url", "")
        if Path(repo.config.files["local"]).exists() or not url.startswith("gs://"):
            return ""
    bucket = url.removeprefix("gs://").partition("/")[0]
    return "" if readable(bucket) else f"{url} cannot be read from here: {without()}"


@contextmanager
def repository() -> Iterator[Repo]:
    """The DVC repository of the working directory; DVC's own errors become a `UserError`."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except NotDvcRepoError:
        raise UserError("this is no DVC repository", "run this in the clone's root") from None
    except DvcException as error:
        raise UserError(str(error), "see `dvc doctor`, or run the dvc command itself with -v") from error


def open_remote(repo: Repo, write: bool = False) -> Remote:
    """The default remote, which has answered.

    Raises:
        UserError: there is none, or it cannot be reached, is missing, or refuses.
    """
    from dvc.config import NoRemoteError

    try:
        remote = repo.cloud.get_remote()
    except NoRemoteError:
        raise UserError("this clone has no DVC remote", "make remote BUCKET=gs://NAME/FOLDER") from None
    if remote.fs.protocol == "gs":
        answers(address(remote), remote.fs.fs_args.get("endpoint_url"))
        check_key(remote.fs.fs_args.get("token"))
        with explained(address(remote)):
            probe(remote.fs.fs, remote.path, write)
    return remote


def address(remote: Remote) -> str:
    """The remote as a URL."""
    return str(remote.fs.unstrip_protocol(remote.path))


if __name__ == "__main__":
    with suppress(UserError):  # a source archive without git: nothing to settle
        if said := settle():
            print(said)
