"""`infbox-lmcache`: LMCache's daemon as a service, from the environment of its unit.

KV_SOCKET          unix socket of its HTTP API: state, metrics, quotas; the daemon has it on a port otherwise
KV_PORT            port of its protocol for engines, on the loopback of the network that it shares with them alone
KV_L1_GIB          RAM for chunks
KV_L2_GIB          disk for chunks; 0: none
KV_L2_PATH         where those are; nothing else is touched there
KV_TENANT_GIB      what of that a tenant may have; 0: all
KV_REDIS_SOCKET    unix socket of a Redis or Valkey, or of a relay to one; empty: none
KV_REDIS_DATABASE, KV_REDIS_USERNAME, KV_REDIS_PASSWORD_FILE, KV_REDIS_TLS_NAME, KV_REDIS_CA_FILE
                   how to speak there: with TLS, to the host of that name, if there is one
KV_STATE_DIR       where the box's key is
KV_CHUNK_TOKENS    tokens of a chunk
KV_CONTEXT         what the chunks' values depend on beside model and versions, as the number format
KV_MODEL_FILE      what the model's folder says of its content

What is stored is good for one model, of one content, in one version of engine and daemon: that is the name of the
folder on disk, and bound into each chunk. Folders of others are deleted at the start.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import string
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from infbox.cake.versions import why_not
from infbox.engine_probe import Ask, ask_over
from infbox.errors import InfboxError, NotReadyError
from infbox.gateway.systemd import listen, notify
from infbox.kv import lifeline
from infbox.kv.seal import SealError, box_key

# The engine notices an outage within two beats, and this process takes longer than that to come up.
REAP_SECONDS = 30
CONTEXT_DIGITS = 16
_POLL_SECONDS = 0.2
# Well within the unit's WatchdogSec=.
BEAT_SECONDS = 5.0
# Read by LMCache at its import.
_SWITCHES = {"LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Settings:
    """The daemon's, in the units of the environment."""

    socket: Path
    port: int
    l1_gib: float
    l2_gib: float
    l2_path: Path
    tenant_gib: float
    redis: dict[str, object]
    state_dir: Path
    chunk_tokens: int
    context: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """From KV_*.

        Raises:
            InfboxError: one is missing or no such value, or the model's file cannot be read.
        """
        try:
            model = Path(environment["KV_MODEL_FILE"])
            said = model.read_bytes()
            return cls(
                socket=Path(environment["KV_SOCKET"]),
                port=int(environment["KV_PORT"]),
                l1_gib=_positive(environment, "KV_L1_GIB"),
                l2_gib=_positive(environment, "KV_L2_GIB", least=0),
                l2_path=Path(environment["KV_L2_PATH"]),
                tenant_gib=_positive(environment, "KV_TENANT_GIB", least=0),
                redis=_redis(environment),
                state_dir=Path(environment["KV_STATE_DIR"]),
                chunk_tokens=int(environment["KV_CHUNK_TOKENS"]),
                context=context_of(said, environment.get("KV_CONTEXT", "")),
            )
        except KeyError as fault:
            raise InfboxError(f"{fault.args[0]} is not set", "start it by its unit, infbox-lmcache") from None
        except ValueError as fault:
            raise InfboxError(f"/etc/infbox/lmcache.env: {fault}", "run role lmcache again") from None
        except OSError as fault:
            raise InfboxError(f"{fault.filename} cannot be read: {fault.strerror}", "run role model again") from None


def _positive(environment: Mapping[str, str], name: str, least: float = 0.1) -> float:
    value = float(environment[name])
    if not least <= value < 1e6:
        raise ValueError(f"{name} is {environment[name]}, and must be {least:g} or more")
    return value


def _redis(environment: Mapping[str, str]) -> dict[str, object]:
    """How to reach the store, as `infbox.kv.remote` takes it; empty if there is none."""
    socket = environment["KV_REDIS_SOCKET"]
    if not socket:
        return {}
    return {
        "socket": socket,
        "database": int(environment["KV_REDIS_DATABASE"]),
        "username": environment["KV_REDIS_USERNAME"],
        "password_file": environment["KV_REDIS_PASSWORD_FILE"],
        "tls_name": environment["KV_REDIS_TLS_NAME"],
        "ca_file": environment["KV_REDIS_CA_FILE"],
    }


def context_of(model: bytes, more: str) -> str:
    """What chunks are good for, in 16 hexadecimal digits: the model's content, the versions of what made them."""
    versions = {name: _version(name) for name in ("vllm", "lmcache")}
    facts = [model.hex(), sorted(versions.items()), more]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:CONTEXT_DIGITS]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def arguments(settings: Settings) -> list[str]:
    """The words of `lmcache`."""
    words = ["server", "--host", "127.0.0.1", "--port", str(settings.port)]
    words += ["--l1-size-gb", f"{settings.l1_gib:g}", "--no-l1-use-lazy", "--chunk-size", str(settings.chunk_tokens)]
    words += ["--eviction-policy", "LRU", "--worker-reap-timeout-seconds", str(REAP_SECONDS)]
    # What was found on disk stays in RAM; LMCache's default gives it to the request and forgets it.
    words += ["--l2-prefetch-policy", "retain"]
    if not why_not():
        words += ["--server-module", json.dumps({"module_path": "infbox.cake.lift"})]
    tiers: list[tuple[str, str, dict[str, object]]] = []
    if settings.l2_gib:
        own: dict[str, object] = {
            "folder": str(_folder(settings)),
            "capacity_gib": settings.l2_gib,
            "tenant_gib": settings.tenant_gib,
        }
        tiers.append(("disk", "Disk", own))
    if settings.redis:
        tiers.append(("redis", "Remote", settings.redis))
    sealed = {"key_file": str(settings.state_dir / "key"), "context": settings.context}
    for name, adapter, own in tiers:
        told = {
            "type": "plugin",
            "module_path": f"infbox.kv.{adapter.lower()}",
            "class_name": adapter,
            "adapter_params": {**own, **sealed},
            "serde": {"type": "infbox_sealed", "tier": name, **sealed},
        }
        words += ["--l2-adapter", json.dumps(told)]
    return words


def usable(settings: Settings) -> Settings:
    """Without what cannot be had now: a daemon with RAM alone is better than none."""
    try:
        box_key(settings.state_dir / "key")
    except SealError as fault:
        print(f"warning: RAM alone until the next start: {fault}", flush=True)
        return replace(settings, l2_gib=0, redis={})
    try:
        _folder(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.listdir(_folder(settings))
    except OSError as fault:
        place = f"{fault.filename}: {fault.strerror}"
        print(f"warning: no disk until the next start: {place}; mend it, and restart infbox-lmcache", flush=True)
        return replace(settings, l2_gib=0)
    return settings


def _folder(settings: Settings) -> Path:
    return settings.l2_path / settings.context


def forget_others(settings: Settings) -> None:
    """Delete chunks of other models, versions and formats."""
    for other in sorted(settings.l2_path.glob("*")):
        ours = len(other.name) == CONTEXT_DIGITS and not set(other.name) - set(string.hexdigits)
        if ours and (other != _folder(settings) or not settings.l2_gib):
            print(f"{other} is of another model, version or format, or there is to be none: it is deleted", flush=True)
            shutil.rmtree(other, ignore_errors=True)


def tell_when_ready(path: Path, address: str | None, begin: Callable[[], None], answers: Callable[[], bool]) -> None:
    """Once the daemon answers, begin what needs it, and tell systemd; and go on to tell it while it answers engines."""
    while True:
        try:
            if ask_over(str(path), Ask("GET", "/healthcheck"), 5).status == 200:
                break
        except NotReadyError:
            pass
        time.sleep(_POLL_SECONDS)
    begin()
    notify(address, "READY=1")
    while True:
        if answers():
            notify(address, "WATCHDOG=1")
        time.sleep(BEAT_SECONDS)


def as_engine(port: int) -> Callable[[], bool]:
    """Whether the daemon answers an engine's heartbeat now."""
    from lmcache.integration.vllm.vllm_multi_process_adapter import send_ping  # pyright: ignore
    from lmcache.v1.multiprocess.transport.factory import RequestClientFactory  # pyright: ignore

    client = RequestClientFactory.create(f"tcp://127.0.0.1:{port}")  # pyright: ignore
    return partial(send_ping, client, BEAT_SECONDS)  # pyright: ignore


class Forgetful(dict[int, object]):
    """Keeps nothing that is put into it."""

    def __setitem__(self, key: int, value: object) -> None:
        """Let go of it."""


def let_go_of_engines_that_ended() -> None:
    """Mend LMCache 0.5.6: of each engine on the CPU that ever registered, it keeps the whole KV cache in shared memory.

    It unmaps a segment when the storage of its tensor is gone, and keeps a tensor with that very storage until then.
    torch itself keeps what the storage lies in.
    """
    from lmcache.v1.platform.devices.cpu import shm  # pyright: ignore

    if not hasattr(shm, "_CPU_SHM_KEEP_ALIVE"):  # pyright: ignore
        raise InfboxError("this LMCache keeps its segments otherwise than 0.5.6", "install the one of the lock file")
    shm._CPU_SHM_KEEP_ALIVE = Forgetful()  # pyright: ignore


def serve(settings: Settings) -> None:
    """Run the daemon in this process until it ends."""
    os.environ.update(_SWITCHES)
    forget_others(settings)
    # Both in the engine's environment only.
    import uvicorn  # pyright: ignore[reportMissingImports, reportMissingTypeStubs, reportUnusedImport]
    from lmcache.cli.main import main as lmcache  # pyright: ignore

    from infbox.kv import api

    let_go_of_engines_that_ended()
    listener = listen(settings.socket, "KV_SOCKET")
    lifeline.hold(settings.socket)
    config = uvicorn.Config
    address = os.environ.pop("NOTIFY_SOCKET", None)

    def on_socket(app: Any, **named: object) -> uvicorn.Config:
        """LMCache's HTTP API has a port, which every user of the box would reach; here it has this socket."""
        app.include_router(api.router)  # pyright: ignore
        told = (settings.socket, address, partial(api.begin, app), as_engine(settings.port))
        threading.Thread(target=tell_when_ready, args=told, daemon=True).start()
        return config(app, **{**named, "fd": listener.fileno(), "access_log": False})  # pyright: ignore

    uvicorn.Config = on_socket  # pyright: ignore
    lmcache(arguments(usable(settings)))


def main() -> None:
    """The program."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    try:
        serve(Settings.read(os.environ))
    except ImportError as fault:
        sys.exit(f"error: {fault}\n\nhint: it runs in the engine's environment, /opt/infbox/vllm, by its unit")
    except InfboxError as fault:
        sys.exit(f"error: {fault}")
