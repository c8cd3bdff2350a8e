#!/usr/bin/env python3
"""A stand-in for a registry of images: `registry.py FOLDER`, of what podman saved as an OCI folder, on port 5000.

It knows images by their digest alone, and answers as the OCI distribution specification has it (end-1, 2 and 3).
"""

import http.server
import json
import sys
from pathlib import Path

BLOBS = Path(sys.argv[1], "blobs/sha256")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
UNKNOWN = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}


class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        blob = BLOBS / parts[-1].removeprefix("sha256:")
        if parts == ["v2"]:
            self.answer(200, "application/json", b"{}")
        elif not blob.is_file():
            self.answer(404, "application/json", json.dumps(UNKNOWN).encode())
        elif parts[-2] == "manifests":
            self.answer(200, json.loads(blob.read_text()).get("mediaType", MANIFEST), blob.read_bytes())
        else:
            self.answer(200, "application/octet-stream", blob.read_bytes())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Registry).serve_forever()
