"""The program `infbox-watcher`, started for a test, and questions to its socket."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from watched_box import TOKENIZER_JSON, eventually

PROGRAM = Path(sys.executable).with_name("infbox-watcher")


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("watcher", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)

    def ids(self) -> list[int]:
        return np.frombuffer(self.body, "<u4").tolist()


class Program:
    """Runs `infbox-watcher` for one workspace, `t/work`."""

    def __init__(self, folder: Path, *roots: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model/tokenizer.json").write_text(TOKENIZER_JSON)
        workspaces = [{"name": root.name, "tenant": "t", "path": str(root)} for root in roots]
        listed = {"model": str(folder / "model"), "pack_tokens": 100_000, "workspaces": workspaces}
        (folder / "workspaces.json").write_text(json.dumps(listed))
        # Paths of sockets are short.
        self.run_folder = Path(tempfile.mkdtemp(prefix="ib-"))
        self.socket = self.run_folder / "watcher.sock"
        self.process: subprocess.Popen[str] | None = None

    def start(self, **environment: str) -> "Program":
        settings = {
            **os.environ,
            "WATCHER_SOCKET": str(self.socket),
            "WATCHER_WORKSPACES_FILE": str(self.folder / "workspaces.json"),
            "WATCHER_STATE_DIR": str(self.folder / "state"),
            **environment,
        }
        self.log = (self.folder / "log").open("a")
        self.process = subprocess.Popen([PROGRAM], env=settings, stderr=self.log, text=True)
        eventually(lambda: self.process.poll() is not None or self._is_ready())
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return self

    def _is_ready(self) -> bool:
        try:
            return all(each["state"] != "indexing" for each in self.ask("GET", "/workspaces").json()["workspaces"])
        except OSError:
            return False

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = Connection(self.socket)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = Answer(connection.getresponse())
        connection.close()
        return answer

    def pack(self, **headers: str) -> Answer:
        return self.ask("GET", "/workspaces/t/work/pack", **headers)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process = None
        self.log.close()
        return status
