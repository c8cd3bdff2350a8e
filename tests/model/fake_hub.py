"""A small Hugging Face hub on loopback: the one fake here, because a hub is out of a test's reach.

It speaks what huggingface_hub asks for: a model's revision, its tree, and files that redirect to another origin (the
"CDN") which serves ranges. It can cut connections, stall, lie about content and refuse.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


@dataclass
class FakeHub:
    """What the hub holds and how it misbehaves."""

    files: dict[str, bytes]
    commit: str = COMMIT
    repo: str = "org/tiny"
    token: str = ""  # asked for when set
    gated: bool = False
    revisions: set[str] = field(default_factory=lambda: {"main"})
    cuts: dict[str, int] = field(default_factory=dict)  # path → how many answers end half-way
    unavailable: int = 0  # how many requests to the API answer 503 first
    altered: dict[str, int] = field(default_factory=dict)  # path → how many answers carry another content
    ranges: bool = True
    served: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header) of each CDN request
    seen_tokens: dict[str, set[str]] = field(default_factory=lambda: {"hub": set(), "cdn": set()})
    requests: int = 0
    html: bool = False
    block: threading.Event | None = None  # CDN answers wait for it after half the file

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._cdn = _serve(self, "cdn")
        self._hub = _serve(self, "hub")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._cdn.server_port}"

    def take(self, counts: dict[str, int], path: str) -> bool:
        """Whether `path` has a misbehaviour left, used up by asking."""
        with self._lock:
            left = counts.get(path, 0)
            counts[path] = left - 1
            return left > 0

    def close(self) -> None:
        for server in (self._cdn, self._hub):
            server.shutdown()
            server.server_close()


def _serve(hub: FakeHub, role: str) -> ThreadingHTTPServer:
    handler = type("Handler", (_Hub if role == "hub" else _Cdn,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raise NotImplementedError


class _Hub(_Handler):
    def do_GET(self) -> None:
        hub = self.hub
        hub.requests += 1
        sent = self.headers.get("Authorization", "")
        hub.seen_tokens["hub"].add(sent)
        if hub.html:
            return self.answer(200, b"<html>log in to the guest network</html>", Content_Type="text/html")
        with hub._lock:
            if hub.unavailable > 0:
                hub.unavailable -= 1
                return self.answer(503)
        path = self.path.partition("?")[0]
        if f"/{hub.repo}/" not in f"{path}/":
            return self.answer(401 if not sent else 404, X_Error_Code="RepoNotFound")
        if sent and hub.token and sent != f"Bearer {hub.token}":
            return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if match := re.fullmatch(rf"/api/models/{hub.repo}(?:/revision/(.+))?", path):
            if (match[1] or "main") not in hub.revisions | {hub.commit}:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            return self.json({"id": hub.repo, "sha": hub.commit, "siblings": [], "tags": [], "downloads": 0})
        if path.startswith(f"/api/models/{hub.repo}/tree/"):
            return self.json([self.entry(name, content) for name, content in hub.files.items()])
        if match := re.fullmatch(rf"/{hub.repo}/resolve/([^/]+)/(.+)", path):
            if hub.gated and sent != f"Bearer {hub.token}":
                return self.answer(403 if sent else 401, X_Error_Code="GatedRepo")
            if match[2] not in hub.files:
                return self.answer(404, X_Error_Code="EntryNotFound")
            etag = hashlib.sha256(hub.files[match[2]]).hexdigest()
            size = str(len(hub.files[match[2]]))
            location = f"{hub.cdn}/{match[2]}"
            headers = {"Location": location, "X_Repo_Commit": match[1], "X_Linked_Etag": f'"{etag}"'}
            return self.answer(302, X_Linked_Size=size, **headers)
        return self.answer(404)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, object]:
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": blob}
        if name.endswith((".safetensors", ".bin")):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


class _Cdn(_Handler):
    def do_GET(self) -> None:
        hub, name = self.hub, self.path[1:]
        hub.seen_tokens["cdn"].add(self.headers.get("Authorization", ""))
        asked = self.headers.get("Range", "")
        hub.served.append((name, asked))
        content = hub.files[name]
        if hub.take(hub.altered, name):
            content = bytes(len(content))
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and hub.ranges else 0
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        if hub.take(hub.cuts, name):
            self.wfile.write(body[:half])
            self.close_connection = True
            return
        self.wfile.write(body[:half])
        if hub.block is not None and half > 10_000:
            self.wfile.flush()
            hub.block.wait(20)
        self.wfile.write(body[half:])
