"""A HuggingFace hub on loopback, as far as uploading needs one: repositories, LFS objects, commits, tokens, faults."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """What the server holds. `fail_next` names a path fragment whose next request is cut off."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.writers = {"hf_writer"}
        self.readers = {"hf_reader"}
        self.stored: list[str] = []
        self.fail_next = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, value, status=200):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if hub.fail_next and hub.fail_next in self.path:
                hub.fail_next = ""
                self.connection.close()
                return None
            if self.path.startswith("/lfs-object/"):
                oid = self.path.rpartition("/")[2]
                hub.objects[oid] = body
                hub.stored.append(oid)
                return self.answer({})
            if token not in hub.writers | hub.readers:
                return self.answer({"error": "Invalid credentials"}, 401)
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if self.path == "/api/whoami-v2":
                return self.answer({"name": "me"})
            if token not in hub.writers:
                return self.answer({"error": "Forbidden"}, 403)
            return self.write(body)

        def write(self, body):
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                key = f"{asked.get('type', 'model')}s/{name}"
                known = key in hub.repositories
                hub.repositories.setdefault(key, {})
                place = name if key.startswith("models") else key
                return self.answer({"url": f"{hub.url}/{place}"}, 409 if known else 200)
            if match := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/preupload/main", self.path):
                files = json.loads(body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False, "oid": None}
                    for f in files
                ]
                return self.answer({"files": modes})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = []
                for item in json.loads(body)["objects"]:
                    upload = {"upload": {"href": f"{hub.url}/lfs-object/{item['oid']}"}}
                    objects.append(item if item["oid"] in hub.objects else {**item, "actions": upload})
                return self.answer({"objects": objects, "transfer": "basic"})
            if match := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/commit/main", self.path):
                repository = hub.repositories[match[1]]
                for line in body.decode().splitlines():
                    item = json.loads(line)
                    value = item["value"]
                    if item["key"] == "file":
                        repository[value["path"]] = base64.b64decode(value["content"])
                    if item["key"] == "lfsFile":
                        repository[value["path"]] = hub.objects[value["oid"]]
                place = match[1].removeprefix("models/")
                url = f"{hub.url}/{place}/commit/{'0' * 40}"
                return self.answer({"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})
            return self.answer({"error": f"no such place: {self.path}"}, 404)

        do_GET = do_POST = do_PUT = handle_any

    return Handler


def mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def fake_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
