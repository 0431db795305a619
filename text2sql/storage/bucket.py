"""Opening a bucket, and what to say when it cannot be opened.

gcsfs tries again for half a minute and then raises from deep inside; a person wants one line with what was refused and
one with what to type. `explained` turns the exceptions of the whole stack (google-auth, gcsfs, aiohttp, requests, DVC,
the operating system) into a `UserError`; `probe` asks once, in seconds, before any work is begun.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# gcsfs otherwise opens every bucket with a gRPC call, to learn whether it is a zonal one. That call ignores
# STORAGE_EMULATOR_HOST and hangs behind HTTP proxies; the buckets of this project are plain ones.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# google-auth warns, each time, that this machine is none of Google's; if credentials are missing, `explain` says so.
logging.getLogger("google.auth").setLevel(logging.ERROR)

#: seconds within which an endpoint has to answer a first, unauthenticated request
PROBE_TIMEOUT = 5.0
GOOGLE = "https://storage.googleapis.com"
LOGIN = (
    "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS=key.json; "
    "a public bucket: `dvc remote modify --local NAME allow_anonymous_login true`"
)

ROLES = "roles/storage.objectUser (to push) or roles/storage.objectViewer (to pull) on the bucket"
BUCKET = "gs://NAME --location=REGION --uniform-bucket-level-access"
#: what a key file has to have, by its type
KEY_FIELDS = {
    "service_account": {"client_email", "private_key", "token_uri"},
    "authorized_user": {"client_id", "client_secret", "refresh_token"},
    "external_account": {"audience", "subject_token_type", "token_url"},
    "external_account_authorized_user": {"client_id", "client_secret", "refresh_token"},
    "impersonated_service_account": {"source_credentials"},
}
#: HTTP status by which the service says: later
RETRIED = ("408", "429", "500", "502", "503", "504")


def filesystem(url: str, anonymous: bool = False) -> tuple[AbstractFileSystem, str]:
    """The file system of `url` (gs://, or a folder) and the path in it, without a trailing slash.

    Credentials are found as Google's tools find them: application default, service account file, workload identity;
    `anonymous` uses none.

    Raises:
        UserError: no URL of a kind that we know, no bucket in it, or nothing answers there.
    """
    import fsspec

    scheme, _, rest = url.rpartition("://")
    if scheme not in ("", "gs", "gcs", "file"):
        raise UserError(f"{url}: {scheme}:// is not supported", "give gs://bucket/folder or a local folder")
    if not rest.strip("/"):
        raise UserError(f"{url} names no bucket or folder", "give gs://bucket/folder")
    options: dict[str, Any] = {}
    if scheme in ("gs", "gcs"):
        answers(url)
        check_key("anon" if anonymous else None)
        options = {"use_listings_cache": False} | ({"token": "anon"} if anonymous else {})
    with explained(url):
        fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path.rstrip("/")


def endpoint(configured: str | None = None) -> str:
    """The address of the storage service: what DVC's configuration says, an emulator's, or Google's."""
    address = configured or os.environ.get("STORAGE_EMULATOR_HOST") or GOOGLE
    return address if "://" in address else f"http://{address}"


def check_key(path: str | None = None) -> None:
    """Look at the key file configured (`path`) or in the environment: gcsfs passes over a broken one in silence.

    Raises:
        UserError: it is not there, or is no key of Google's.
    """
    path = path or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path or path == "anon":
        return
    try:
        key = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"credentials: {path} cannot be read ({type(error).__name__})", LOGIN) from None
    kind = key.get("type") if isinstance(key, dict) else None
    missing = sorted(KEY_FIELDS.get(str(kind), {"type"}) - set(key or ()))
    if missing:
        raise UserError(f"credentials: {path} is no key file of Google's (no {missing[0]})", LOGIN)


def answers(url: str, address: str | None = None) -> None:
    """Ask the service for anything at all: gcsfs would try a dead one six times, for half a minute.

    Raises:
        UserError: nothing answers within seconds.
    """
    import requests

    host = endpoint(address)
    try:
        requests.get(f"{host}/storage/v1/b", timeout=PROBE_TIMEOUT)
    except requests.RequestException as error:
        what = f"{url}: cannot be reached (no answer from {host}: {type(error).__name__})"
        raise UserError(what, "check network and proxy, then run this again") from error


def readable(bucket: str) -> bool:
    """Whether `bucket` is there and either public or credentials are found, in seconds and without an error."""
    import google.auth
    import requests

    try:
        status = requests.get(f"{endpoint()}/storage/v1/b/{bucket}/o?maxResults=1", timeout=PROBE_TIMEOUT).status_code
        if status in (401, 403):
            google.auth.default()
    except (requests.RequestException, google.auth.exceptions.DefaultCredentialsError):
        return False
    return status in (200, 401, 403)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Within it, what bucket, network or disk do wrong about `url` is a `UserError`; other errors stay as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for cause in _causes(error):
            if (said := explain(cause, url)) is not None:
                raise said from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(error: BaseException, url: str) -> UserError | None:
    """What `error`, met while using `url`, says to a person; None if it is nothing known."""
    import aiohttp
    import google.auth.exceptions as auth
    import requests
    from gcsfs.retry import HttpError

    text, first = str(error), next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
    code = str(error.code) if isinstance(error, HttpError) else ""
    denied = text.startswith("Forbidden") or code == "403" or isinstance(error, PermissionError)
    if (denied or code == "401") and "Anonymous" in text:
        return UserError(f"{url}: no credentials were found, and it is not public", LOGIN)
    if isinstance(error, auth.DefaultCredentialsError | auth.RefreshError) or code == "401":
        return UserError(f"{url}: credentials are missing, broken or expired: {first}", LOGIN)
    if denied:
        return UserError(f"{url}: permission denied", f"ask its owner for {ROLES}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"the disk is full ({error.filename or 'while writing'})"
        return UserError(what, "make room, then run this again: it goes on")
    if isinstance(error, FileNotFoundError) or code == "404":
        remedy = f"check the name; a new one: `gcloud storage buckets create {BUCKET}` (docs/STORAGE.md)"
        return UserError(f"{url}: not found ({first})", remedy)
    network = (aiohttp.ClientError, requests.exceptions.RequestException, auth.TransportError)
    if isinstance(error, (*network, ConnectionError, TimeoutError)) or code in RETRIED:
        remedy = "check network and proxy, then run this again: what has arrived is kept"
        return UserError(f"{url}: cannot be reached ({first})", remedy)
    return None


def probe(fs: AbstractFileSystem, path: str, write: bool) -> None:
    """Ask once whether `path` ("bucket/prefix") can be listed and, with `write`, written.

    The write is a real one, of a few bytes that are removed again: permissions can be granted and refused in more ways
    (conditions, folders, retention) than any question about them answers.

    Raises:
        UserError: it is not there, or refuses.
    """
    bucket, _, prefix = path.strip("/").partition("/")
    with explained(f"gs://{path}"):
        fs.call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1)
        if write:
            name = "/".join(part for part in (path, f".text2sql-{secrets.token_hex(4)}") if part)
            fs.pipe_file(name, b"a test of write access, safe to delete\n")
            with suppress(OSError):  # who may create but not delete, as CI should, can push all the same
                fs.rm_file(name)
