"""What tests hold of a box: how a client reaches it, and how its administrator does."""

import contextlib
import http.client
import json
import shlex
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

ENGINE_SOCKET = "/run/infbox-vllm/vllm.sock"
# Asks a service itself, behind the gateway's back, as root. SOCKET METHOD PATH on the command line, the body on stdin.
SOCKET_ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection("service", timeout=60)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
body = sys.stdin.buffer.read()
connection.request(sys.argv[2], sys.argv[3], body or None, {"Content-Type": "application/json"} if body else {})
sys.stdout.buffer.write(connection.getresponse().read())
"""


@dataclass(frozen=True)
class LiveBox:
    """A running box; the fields are those of `.demo/box.json`."""

    url: str
    ca_file: str
    api_key: str = field(repr=False)
    model: str
    ssh: str
    folder: Path

    @classmethod
    def read(cls, path: Path) -> "LiveBox":
        return cls(folder=path.resolve().parent, **json.loads(path.read_text()))

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def context(self, *protocols: str) -> ssl.SSLContext:
        """TLS that trusts the box's authority and nobody else."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    @contextlib.contextmanager
    def openai(self, api_key: str | None = None):
        """The client that people use; it never tries twice."""
        with (
            httpx2.Client(verify=self.context(), timeout=180) as http,
            openai.OpenAI(
                base_url=f"{self.url}/v1", api_key=api_key or self.api_key, http_client=http, max_retries=0
            ) as client,
        ):
            yield client

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 180,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One HTTP/1.1 exchange on a connection of its own; `path` is sent as it stands, `key` None sends none."""
        connection = http.client.HTTPSConnection(self.host, timeout=timeout, context=self.context())
        fields = {} if key is None else {"Authorization": f"Bearer {key}"}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        fields |= {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, fields | (headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def chat(self, prompt: str, key: str | None = None, **more: object) -> dict[str, Any]:
        """The answer to one question, at temperature 0."""
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 24, **more}
        status, _, answer = self.request(
            "POST", "/v1/chat/completions", {"model": self.model, "temperature": 0, **body}, key or self.api_key
        )
        assert status == 200, answer
        return json.loads(answer)

    def run(self, command: str, given: str = "", timeout: float = 90, check: bool = True) -> str:
        """Run a shell command as root on the box; `given` is its standard input."""
        done = subprocess.run(
            [*shlex.split(self.ssh), "-o", "ConnectTimeout=10", command],
            input=given, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command[:200]!r} on the box: {done.returncode}\n{done.stderr}"
        return done.stdout.strip()

    def python(self, program: str, given: object = None, timeout: float = 90) -> Any:
        """Run a Python program as root on the box; it finds `given` as JSON on stdin and prints JSON."""
        return json.loads(self.run(f"python3 -c {shlex.quote(program)}", json.dumps(given), timeout))

    def ask_engine(self, method: str, path: str, body: object = None, socket: str = ENGINE_SOCKET) -> str:
        """Ask the engine, or another service, on its own socket."""
        given = "" if body is None else json.dumps(body)
        return self.run(f"python3 -c {shlex.quote(SOCKET_ASK)} {socket} {method} {shlex.quote(path)}", given)

    def metric(self, name: str, label: str = "") -> float:
        """A metric's value, summed over the series whose labels contain `label`."""
        lines = self.ask_engine("GET", "/metrics").splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and label in line
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as systemd tells it."""
        return self.run(f"systemctl show {unit} --property={name} --value")

    def main_pid(self, unit: str) -> int:
        return int(self.show(unit, "MainPID"))

    def restarts(self, unit: str) -> int:
        return int(self.show(unit, "NRestarts"))

    def journal(self, unit: str, seconds: float) -> str:
        """The end of what the unit said during the last `seconds`."""
        command = f"journalctl --unit {unit} --since=-{seconds:.0f}s --lines 40 --no-pager --output short-precise"
        try:
            return self.run(command, check=False, timeout=30)
        except subprocess.TimeoutExpired:
            return "the box does not answer"

    def answers(self, path: str) -> bool:
        """Whether GET `path` gets 200 now."""
        try:
            return self.request("GET", path, timeout=35)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_until_answering(self, path: str = "/ready", seconds: float = 240) -> float:
        """Wait for GET `path` to be 200; returns how long it took."""
        begun = time.monotonic()
        while not self.answers(path):
            assert time.monotonic() - begun < seconds, f"{path} is not 200 after {seconds:.0f} s"
            time.sleep(0.25)
        return time.monotonic() - begun


def until(condition: Any, seconds: float, what: str) -> None:
    """Wait until the condition holds; fail, naming it, when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
