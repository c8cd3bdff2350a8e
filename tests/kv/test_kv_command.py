"""What `infbox kv` says, without a daemon at hand; tests/box asks a real one."""

import argparse
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infbox.commands import kv
from infbox.errors import NotReadyError

STATE = {
    "healthy": True,
    "engines": 1,
    "chunk_tokens": 256,
    "asked_tokens": 12_000,
    "tiers": [
        {"name": "RAM", "bytes": 2**29, "capacity_bytes": 2**30, "chunks": 12, "chunks_of_tenants": {"a": 12},
         "hit_tokens": 4096},
        {"name": "redis", "bytes": 2**28, "capacity_bytes": 0, "chunks": 6, "chunks_of_tenants": {"": 6},
         "loaded_chunks": 3, "failures": {"store": 2}},
    ],
}  # fmt: skip


class Daemon(http.server.BaseHTTPRequestHandler):
    """Answers every path with what the server has."""

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "a client"


class Server(socketserver.ThreadingUnixStreamServer):
    """A daemon on a socket."""

    def __init__(self, path: Path) -> None:
        self.answer: tuple[int, bytes] = (200, b"")
        self.asked: list[str] = []
        super().__init__(str(path), Daemon)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "d.sock") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    kv.register(parser.add_subparsers())
    options = parser.parse_args(["kv", *words])
    options.run(options)


def test_the_state_names_tiers_tenants_and_what_failed() -> None:
    told = kv.describe(STATE)
    for line in ("RAM                 0.50 of 1.00 GiB, 12 chunks", "  a                 12 chunks"):
        assert line in told.splitlines()
    assert "redis               0.25 GiB, 6 chunks" in told
    assert "  (no tenant)       6 chunks" in told
    assert "2 x store" in told
    assert "12,000 tokens since its start; found: 4,096 tokens in RAM, 3 chunks in redis" in told


def test_what_cake_did_is_told_where_it_did_something() -> None:
    idle = {"prompts": {}, "tokens": {}, "fallbacks": {}, "mispredictions": 0}
    assert "Cake" not in kv.describe(STATE | {"cake": idle})
    busy = {
        "prompts": {"load": 1_200, "split": 3},
        "tokens": {"computed": 4_096, "loaded": 8_192},
        "fallbacks": {"preempted": 1},
        "mispredictions": 2,
        "bytes_per_second": 41_000_000,
        "tokens_per_second": 1_900,
    }
    told = kv.describe(STATE | {"cake": busy}).splitlines()
    assert told[-4:] == [
        "Cake                prompts: 1,200 load, 3 split",
        "  of those split    4,096 tokens computed, 8,192 tokens loaded; 41 MB/s from storage, 1,900 tokens/s computed",
        "  slower            2 than the better of computing and loading was to be",
        "  not to the end    1 x preempted",
    ]


@pytest.mark.parametrize("answer", [(200, b"[]"), (200, b"{"), (500, b'{"tiers": []}'), (404, b"no such path")])
def test_an_answer_that_is_no_state_is_shown(daemon: Server, answer: tuple[int, bytes]) -> None:
    daemon.answer = answer
    with pytest.raises(NotReadyError, match=f"an answer of {answer[0]} without tiers"):
        run("status", "--socket", daemon.server_address)


def test_without_a_daemon_it_says_what_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError) as caught:
        run("status", "--socket", str(tmp_path / "none.sock"))
    assert "systemctl status infbox-lmcache" in str(caught.value)


def test_a_tenants_name_is_no_part_of_the_path(daemon: Server, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answer = (200, json.dumps({"deleted": {"RAM": 3}, "faults": [], "done": True}).encode())
    run("clear", "--tenant", "a&b/../c?", "--socket", daemon.server_address, "--engine-socket", daemon.server_address)
    assert daemon.asked == ["POST /infbox/clear?tenant=a%26b%2F..%2Fc%3F", "POST /infbox/reset-prefix-cache"]
    assert capsys.readouterr().out == "deleted: 3 chunks in RAM\n"


def test_what_was_not_forgotten_is_said(daemon: Server) -> None:
    told = {"deleted": {"RAM": 3}, "faults": ["redis: away"], "done": False}
    daemon.answer = (200, json.dumps(told).encode())
    with pytest.raises(NotReadyError, match="not all was forgotten: redis: away; the engine computes"):
        run("clear", "--socket", daemon.server_address, "--engine-socket", daemon.server_address)
