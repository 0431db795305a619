"""Stops a private PostgreSQL when the process that owns it is gone, however it went (`kill -9` included).

`server.py` runs this file as a child of the owner. It needs nothing but the standard library, so that it starts in
milliseconds and depends on nothing that the owner could have broken.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

PORT = 5432  # only a part of the socket's name: the server listens on no network
POLL_SECONDS = 0.3
GRACE_SECONDS = 10.0


def data_directory(root: Path) -> Path:
    """Where the cluster of the server at `root` lies."""
    return root / "data"


def alive(root: Path) -> bool:
    """Whether a server answers on the socket in `root`: a process id alone may be another's by now."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(root / f".s.PGSQL.{PORT}"))
        except OSError:
            return False
    return True


def stop(root: Path) -> None:
    """End the server at `root`, if it lives, without a checkpoint (its data are about to go), and remove `root`."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((data_directory(root) / "postmaster.pid").read_text().splitlines()[0])
        if alive(root):
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + GRACE_SECONDS
            while (data_directory(root) / "postmaster.pid").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            if alive(root):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(root, ignore_errors=True)


def stop_after(owner: int, root: Path) -> None:
    """Wait until `owner` is no longer this process's parent, then stop the server; return if `root` goes first."""
    while root.exists():
        if os.getppid() != owner:
            stop(root)
            return
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    stop_after(int(sys.argv[1]), Path(sys.argv[2]))
