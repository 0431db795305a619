"""The private server: it starts, it is private, and it never outlives its owner."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from text2sql.errors import UserError
from text2sql.postgres import server as module
from text2sql.postgres import watchdog
from text2sql.postgres.server import PREFIX, clean_stale, server

OWNER = """
import sys, time
from text2sql.postgres.server import server
with server() as s:
    print(s.root, flush=True)
    time.sleep(60)
"""


def start_owner(tmp: Path) -> tuple[subprocess.Popen, Path]:
    environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(Path.cwd())}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment)
    return owner, Path(owner.stdout.readline().strip())


def gone(root: Path, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while root.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not root.exists() and not watchdog.alive(root)


@pytest.fixture
def short_tmp(monkeypatch):
    """A temporary directory whose path leaves room for a socket, and that the server's user may enter."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_server_runs_with_settings_and_leaves_nothing_behind():
    with server({"work_mem": "7MB"}) as running:
        running.create_database('Odd "name"')
        with psycopg.connect(running.dsn('Odd "name"')) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()[0] for name in ("work_mem", "listen_addresses")
            }
            assert shown == {"work_mem": "7MB", "listen_addresses": ""}
            assert connection.info.server_version >= 180000
            # as in SQLite: bytes decide the order, and only ASCII letters have case
            assert connection.execute("SELECT 'Z' < 'a', lower('ÄB'), 'É' ILIKE 'é'").fetchone() == (True, "Äb", False)
        root = running.root
    assert gone(root, 1)


def test_two_servers_beside_each_other():
    with server() as first, server() as second:
        first.create_database("only_first")
        with psycopg.connect(second.dsn()) as connection:
            names = [row[0] for row in connection.execute("SELECT datname FROM pg_database")]
        assert "only_first" not in names


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_its_owner(how, short_tmp):
    owner, root = start_owner(short_tmp)
    assert watchdog.alive(root)
    owner.send_signal(how)
    owner.wait()
    assert gone(root)


def test_start_cleans_what_a_killed_owner_and_watchdog_left(short_tmp):
    import psutil

    owner, root = start_owner(short_tmp)
    (watching,) = [p for p in psutil.Process(owner.pid).children() if "watchdog" in " ".join(p.cmdline())]
    watching.kill()
    owner.kill()
    owner.wait()
    assert watchdog.alive(root)
    assert clean_stale() == [root]
    assert gone(root, 0)


def test_clean_stale_leaves_a_running_server_alone(short_tmp):
    with server() as running:
        (short_tmp / f"{PREFIX}starting").mkdir()
        assert clean_stale() == []
        assert watchdog.alive(running.root)


def test_a_long_temporary_path_is_not_used_for_the_socket(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with server() as running, psycopg.connect(running.dsn()):
        assert len(str(running.root)) < 60


def test_binaries_that_the_servers_user_cannot_reach_are_copied(monkeypatch, short_tmp):
    if os.geteuid() != 0:
        pytest.skip("only root runs the server as another user")
    closed = short_tmp / "closed"
    closed.mkdir(mode=0o700)
    package = module.binaries().parent.parent
    for name in (package.name, f"{package.name}.libs"):
        (closed / name).symlink_to(package.with_name(name))
    monkeypatch.setattr(module, "binaries", lambda: closed / package.name / "pginstall" / "bin")
    with server() as running, psycopg.connect(running.dsn()):
        assert running.binaries.is_relative_to(running.root)


def test_a_wrong_setting_is_a_user_error_with_the_servers_words(short_tmp):
    with pytest.raises(UserError, match="no_such_setting"), server({"no_such_setting": "1"}):
        pass
    assert not list(short_tmp.glob(f"{PREFIX}*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_works_without_root(short_tmp):
    short_tmp.chmod(0o777)
    script = "from text2sql.postgres.server import server\nwith server(): print('up')"
    path = os.pathsep.join((str(Path.cwd()), str(module.binaries().parents[2])))
    environment = {**os.environ, "TMPDIR": str(short_tmp), "PYTHONPATH": path, "HOME": str(short_tmp)}
    for interpreter in (sys.executable, "/usr/bin/python3"):  # the first may lie in root's closed home
        try:
            done = subprocess.run(
                [interpreter, "-c", script],
                capture_output=True,
                text=True,
                env=environment,
                cwd=short_tmp,
                user="nobody",
                group=pwd.getpwnam("nobody").pw_gid,
                extra_groups=[],
            )
        except OSError:
            continue
        assert done.stdout == "up\n", done.stderr
        return
    pytest.skip("no interpreter that another user can reach")
