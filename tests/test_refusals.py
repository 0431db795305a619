"""What the machine refuses (a full disk, a server that was killed) ends in one sentence with a remedy."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from text2sql import stage
from text2sql.conversion.engines import run_postgres
from text2sql.errors import UserError, refusal_of_the_machine
from text2sql.files import write_text
from text2sql.postgres import sandbox
from text2sql.postgres.server import server


def fill_the_disk():
    with Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)


def write_where_nothing_is_written():
    raise PermissionError(13, "Permission denied", "data/postgres")


def lose_a_worker():
    with ProcessPoolExecutor(1) as pool:
        pool.submit(os.kill, os.getpid(), 0).result()
        pool.submit(os._exit, 9).result()


def lose_the_memory():
    return bytes(2**62)


def lose_the_server():
    with server() as running, psycopg.connect(running.dsn()) as connection:
        os.kill(int((running.root / "data/postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        while not connection.closed:
            run_postgres(connection, "SELECT 1")


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (fill_the_disk, "No space left"),
        (write_where_nothing_is_written, "data/postgres"),
        (lose_a_worker, "a worker process was killed"),
        (lose_the_memory, "the memory is full"),
        (lose_the_server, "PostgreSQL does not answer any more"),
    ],
)
def test_a_stage_says_it_in_a_sentence(monkeypatch, work, said):
    monkeypatch.setattr(stage, "check", lambda: None)
    monkeypatch.setattr(sys, "argv", ["stages/score.py"])
    with pytest.raises(SystemExit, match=said) as end:
        stage.run(work)
    assert "  -> " in str(end.value)
    assert "run the command again" in str(end.value)


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(stage, "check", lambda: None)
    monkeypatch.setattr(sys, "argv", ["stages/score.py"])
    assert refusal_of_the_machine(KeyError("x")) is None
    with pytest.raises(ZeroDivisionError):
        stage.run(lambda: str(1 / 0))


def test_a_sandbox_whose_server_is_gone_says_so(monkeypatch):
    monkeypatch.setattr(sandbox, "RECOVERY_SECONDS", 0.2)
    with server() as running, sandbox.Sandbox(running) as box:
        assert box.execute("postgres", "SELECT 1").rows == [(1,)]
        os.kill(int((running.root / "data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        for _, session in box._idle.values():
            os.kill(session.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="no session on database postgres"):
            box.execute("postgres", "SELECT 1")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text("before")
    monkeypatch.setattr(Path, "replace", lambda self, target: fill_the_disk())
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "metrics.json", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "before"


def test_sigterm_leaves_no_temporary_file(tmp_path):
    """The copy of an SQLite database that has a log, for one."""
    copies, query = tmp_path / "copies", "SELECT count(*) FROM t AS a, t AS b, t AS c, t AS d, t AS e;"
    copies.mkdir()
    (tmp_path / "long.sql").write_text(query)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as owner:
        owner.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a INT)")
        owner.executescript(f"INSERT INTO t VALUES {', '.join(['(1)'] * 1000)}")
        command = [sys.executable, "-m", "text2sql.cli", "convert", "--sqlite", "shop.sqlite", "long.sql"]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "TMPDIR": str(copies)}
        with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
            while not list(copies.glob("text2sql-sqlite-*/*-wal")):
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(copies.iterdir())
