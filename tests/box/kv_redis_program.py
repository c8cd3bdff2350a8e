"""Runs on the box in the engine's environment: the tier in Redis over a server of its own, which is away, hangs, is
slow or full, or is not the one that was meant. Prints JSON. Takes the folder that has the certificates.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kv_parts import found, load, store

from infbox.kv import remote
from infbox.kv.remote import Remote

CERTIFICATES = Path(sys.argv[1])
PORT, USER, PASSWORD = 6391, "kv", "geheim-und-lang"
# What is waited for is bounded in the same way when it is short.
remote.CALL_SECONDS, remote.PAUSE_SECONDS = 1.0, 1.0
told: dict[str, Any] = {}
said: list[str] = []


class Said(logging.Handler):
    """Keeps what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


logging.getLogger("infbox.kv.tier").addHandler(Said())


class Server:
    """Valkey or Redis, whichever the box has, on a unix socket and with TLS on a port."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        users = f"user default on nopass ~* +@all\nuser {USER} on >{PASSWORD} ~infbox:kv:* +@all\n"
        (folder / "users.acl").write_text(users)
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        assert program, "the box has neither Valkey nor Redis"
        self._command = [
            program, "--unixsocket", str(self.socket), "--port", "0", "--save", "", "--dir", str(folder),
            "--tls-port", str(PORT), "--tls-auth-clients", "no", "--aclfile", str(folder / "users.acl"),
            "--tls-cert-file", str(CERTIFICATES / "server.pem"), "--tls-key-file", str(CERTIFICATES / "server.key"),
            "--tls-ca-cert-file", str(CERTIFICATES / "ca.pem"),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        while self.ask("ping", check=False) != "PONG":
            time.sleep(0.05)

    def ask(self, *words: str, check: bool = True) -> str:
        command = ["redis-cli", "-s", str(self.socket), *words]
        return subprocess.run(command, check=check, capture_output=True, text=True).stdout.strip()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def relay(place: Path) -> None:
    """A unix socket that leads to the server's port, as role `redis` has one for a store elsewhere."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place))
    listening.listen()

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def serve() -> None:
        while True:
            near, _ = listening.accept()
            far = socket.create_connection(("127.0.0.1", PORT))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def tier(folder: Path, **named: object) -> Remote:
    """A tier over the server's socket, with a key of its own; `named` replace its parameters."""
    key = folder / "key"
    if not key.exists():
        key.write_bytes(secrets.token_bytes(32))
    said.clear()
    plain = dict.fromkeys(("username", "password_file", "tls_name", "ca_file"), "")
    place = {"key_file": str(key), "context": "a model", "socket": str(folder / "redis.sock"), "database": 0}
    return Remote({**plain, **place, **named})


def told_of(tier: Remote, begun: float) -> dict[str, Any]:
    """What came of calls since then, in seconds, and what was said."""
    return {"seconds": time.monotonic() - begun, "failures": dict(tier.failures), "said": list(said)}


def kept_again(tier: Remote, tenant: str) -> int:
    """How many of three chunks are stored and found, once the pause after a fault is over."""
    time.sleep(remote.PAUSE_SECONDS + 0.2)
    names = [(tenant, number) for number in (91, 92, 93)]
    store(tier, *names)
    return found(tier, *names)


def faults(folder: Path, server: Server) -> None:
    """Those of a server."""
    known = [("a", number) for number in range(6)]
    kept = tier(folder)
    chunks = store(kept, *known)
    count, loaded = load(kept, *known, ("a", 50))
    same = [each.byte_array == other.byte_array for each, other in zip(chunks, loaded, strict=False)]
    told["whole"] = [found(kept, *known, ("b", 1)), count, same, dict(kept.failures)]
    told["names"] = server.ask("keys", "*").splitlines()

    begun, stop = time.monotonic(), threading.Event()

    def slow() -> None:
        while not stop.is_set():
            server.ask("client", "pause", "200", "all")
            time.sleep(0.205)

    pausing = threading.Thread(target=slow)
    pausing.start()
    count, _ = load(kept, *known)
    stop.set()
    pausing.join()
    told["slow"] = [found(kept, *known), count, told_of(kept, begun)]

    begun = time.monotonic()
    server.stop()
    store(kept, *(("a", number) for number in range(10, 30)))
    count = found(kept, *known)
    told["away"] = [count, told_of(kept, begun)]
    server.start()
    told["away"] += [kept_again(kept, "a")]

    kept, begun = tier(folder), time.monotonic()
    os.kill(server.process.pid, signal.SIGSTOP)
    store(kept, *(("b", number) for number in range(30)))
    told["hanging"] = [found(kept, *known), told_of(kept, begun)]
    os.kill(server.process.pid, signal.SIGCONT)
    told["hanging"] += [kept_again(kept, "b")]

    kept, begun = tier(folder), time.monotonic()
    server.ask("config", "set", "maxmemory", "1mb", "maxmemory-policy", "noeviction")
    store(kept, ("c", 1), ("c", 2))
    told["full"] = [found(kept, ("b", 91)), told_of(kept, begun)]
    server.ask("config", "set", "maxmemory", "200mb", "maxmemory-policy", "allkeys-lru")
    told["full"] += [kept_again(kept, "c")]
    told["cleared"] = [kept.clear("c"), found(kept, ("c", 91), ("b", 91)), kept.clear(None) > 0, server.ask("dbsize")]


def trust(folder: Path) -> None:
    """Who is let in, and who is believed."""
    far = folder / "far.sock"
    relay(far)
    right, wrong = folder / "right", folder / "wrong"
    right.write_text(PASSWORD + "\n")
    wrong.write_text("another\n")
    named: dict[str, object] = {"socket": str(far), "tls_name": "localhost", "ca_file": str(CERTIFICATES / "ca.pem"),
                                "username": USER, "password_file": str(right)}  # fmt: skip
    cases = {
        "trusted": {},
        "wrong password": {"password_file": str(wrong)},
        "another authority": {"ca_file": str(CERTIFICATES / "foreign.pem")},
        "another name": {"tls_name": "elsewhere"},
    }
    for case, changed in cases.items():
        kept, begun = tier(folder, **{**named, **changed}), time.monotonic()
        store(kept, ("d", 1))
        told[case] = [found(kept, ("d", 1)), told_of(kept, begun)]


with tempfile.TemporaryDirectory() as name:
    server = Server(Path(name))
    try:
        faults(Path(name), server)
        trust(Path(name))
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()
print(json.dumps(told), flush=True)
os._exit(0)  # the tiers' own threads do not end with the program
