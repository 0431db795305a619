"""Push and pull that look at what they did.

`dvc push` and `dvc pull` work as they are. These add an answer in seconds instead of a hundred lines after half a
minute, send nothing corrupt, and look at the bucket afterwards. DVC takes a directory for complete when its listing is
there, and an object for good when its name is, so that `dvc push` says "up to date" over a hole or a damaged object;
`push` finds and mends both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from text2sql.errors import UserError
from text2sql.storage import verify
from text2sql.storage.bucket import explained
from text2sql.storage.remote import address, open_remote, repository

if TYPE_CHECKING:
    from dvc.data_cloud import Remote
    from dvc.repo import Repo

#: loggers that print a traceback for each object that failed
LOUD = ("dvc", "dvc_data", "dvc_objects", "gcsfs")


def push(everywhere: bool = False) -> str:
    """Push what dvc.lock names (`everywhere`: of all branches and tags), look at the bucket, mend what is wrong there.

    Raises:
        UserError: the cache has a corrupt object, the bucket refuses, or this clone cannot mend what is wrong.
    """
    with repository() as repo:
        remote = open_remote(repo, write=True)
        objects = verify.objects(verify.entries(repo), repo.cache.local, remote.odb)
        lacking = verify.check_cache(repo.cache.local, objects)
        if bad := [finding for finding in lacking if finding.state == "corrupt"]:
            raise UserError(f"nothing was pushed: {bad[0].path} is corrupt in the cache", verify.remedy(bad[0]))
        here = objects.keys() - {finding.oid for finding in lacking}
        with _transfers(address(remote)):
            # Damaged listings first: DVC reads them from the bucket, and gives up.
            corrupt = {finding.oid for finding in verify.check_remote(remote, objects) if finding.state == "corrupt"}
            mended = _send_again(repo, remote, corrupt & here)
            repo.drop_data_index()
            sent = repo.push(all_branches=everywhere, all_tags=everywhere)
            wrong = verify.check_remote(remote, objects)
            holes = _send_again(repo, remote, {finding.oid for finding in wrong} & here)
        if left := verify.check_remote(remote, objects) if holes else wrong:
            what = f"{address(remote)}: {left[0].path} is {left[0].state} (and {len(left) - 1} more)"
            raise UserError(what, verify.remedy(left[0]))
    mended += holes
    return f"{sent} pushed, {mended} mended; {len(objects)} objects in {address(remote)}, all as dvc.lock says"


def pull() -> str:
    """Pull what dvc.lock names into the workspace.

    Raises:
        UserError: the bucket refuses, or an object is missing or corrupt there.
    """
    with repository() as repo:
        remote = open_remote(repo)
        with _transfers(address(remote)):
            # A pull that was killed while it read the listings has noted some of them; DVC takes them for all.
            repo.drop_data_index()
            fetched = repo.pull()["stats"]["fetched"]
    return f"{fetched} fetched from {address(remote)}"


def _send_again(repo: Repo, remote: Remote, oids: set[str]) -> int:
    """Send objects of the cache whatever the bucket has under their names; a listing after what it lists."""
    cache = repo.cache.local
    for oid in sorted(oids, key=lambda oid: oid.endswith(".dir")):
        remote.odb.add(cache.oid_to_path(oid), cache.fs, oid, check_exists=False)
    return len(oids)


@contextmanager
def _transfers(url: str) -> Iterator[None]:
    """DVC logs each object that failed and raises with a count only: say the first cause instead."""
    from dvc.exceptions import CheckoutError, DownloadError, UploadError
    from dvc_objects.errors import ObjectFormatError

    causes: list[BaseException] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                causes.append(record.exc_info[1])

    loggers = [logging.getLogger(name) for name in LOUD]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [Collector()], False
    try:
        with explained(url):
            yield
    except (UploadError, DownloadError, CheckoutError, FileNotFoundError, ObjectFormatError) as error:
        for cause in causes:
            with explained(url):
                raise cause from error
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{url}: {what}", "`text2sql verify` says what is missing or corrupt") from error
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
