"""A connection pooler as far as a client notices: PgBouncer refuses a connection whose startup packet has `options`.

It stands for a network too that falls silent: nothing is forwarded, and no connection ends.
"""

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from text2sql.postgres.server import Server

ENCRYPTION = (80877103, 80877104)  # requests for SSL and GSSAPI, which come before the startup packet


def serve(client: socket.socket, path: str, open_: threading.Event, change: Callable[[bytes], bytes]) -> None:
    """One connection: its startup, then whatever either side says."""
    while open_.wait():
        try:
            head = client.recv(8, socket.MSG_WAITALL)
        except ConnectionResetError:
            return client.close()
        if len(head) < 8:
            return client.close()
        size, code = struct.unpack("!II", head)
        if code not in ENCRYPTION:
            break
        client.sendall(b"N")
    startup = head + client.recv(size - 8, socket.MSG_WAITALL)
    if b"\0options\0" in startup:
        said = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
        client.sendall(b"E" + struct.pack("!I", len(said) + 4) + said)
        return client.close()
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    server.sendall(startup)
    threading.Thread(target=forward, args=(server, client, open_), daemon=True).start()
    return forward(client, server, open_, change)


def forward(
    source: socket.socket,
    target: socket.socket,
    open_: threading.Event,
    change: Callable[[bytes], bytes] = lambda content: content,
) -> None:
    try:
        while content := source.recv(65536):
            open_.wait()
            target.sendall(change(content))
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


@contextmanager
def pooler(
    path: str, open_: threading.Event | None = None, change: Callable[[bytes], bytes] = lambda content: content
) -> Iterator[int]:
    """The port of a pooler before the server whose Unix socket is `path`.

    Args:
        open_: while it is not set, nothing is forwarded.
        change: what the server gets in place of what a client sends.
    """
    if open_ is None:
        open_ = threading.Event()
        open_.set()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client, path, open_, change), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def away(running: Server) -> Iterator[None]:
    """A server that is stopped for the length of the block."""
    control = [running.binaries / "pg_ctl", "-D", running.root / "data", "-s", "-w", "-m", "fast"]
    owner = {"user": running.root.stat().st_uid, "group": running.root.stat().st_gid, "cwd": "/"}
    subprocess.run([*control, "stop"], check=True, **owner)
    yield
    subprocess.run([*control, "-l", "/dev/null", "start"], check=True, **owner)
