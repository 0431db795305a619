"""The DVC remote: pointing a clone at a bucket, and opening it so that what is missing or refused is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from text2sql.errors import UserError
from text2sql.storage.bucket import answers, check_key, explained, filesystem, probe

if TYPE_CHECKING:
    from dvc.data_cloud import Remote
    from dvc.repo import Repo

#: the remote's name in .dvc/config; a clone's own bucket takes over its address in .dvc/config.local
NAME = "storage"


def configure(url: str, shared: bool = False, anonymous: bool = False) -> str:
    """Point this clone's DVC remote at `url`; returns what can be done there.

    Written to .dvc/config.local, which git ignores: one's own bucket is no business of the others. With `shared` it
    goes to .dvc/config, to be committed: a team's bucket, which `dvc get` and `dvc import` elsewhere then use too.

    Raises:
        UserError: not gs://, or the bucket is missing, unreachable or not readable; nothing is then changed.
    """
    if not url.startswith("gs://"):
        raise UserError(f"{url!r} is no bucket", "make remote BUCKET=gs://NAME/FOLDER")
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
