# The engine's environment has LMCache, torch and redis, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""The tier in Redis or Valkey: sealed chunks under names that say nothing.

The daemon has no network beyond its host's engines; it reaches the store over a unix socket, which role `redis` makes:
of a server on this host, or of a relay to one elsewhere. TLS, if asked for, is spoken through the relay.

LMCache's own connector has no TLS and no limit on what it waits for. Here a store that is away or hangs costs one
request a bounded time, and the next ones nothing until it is tried again.
"""

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

import redis
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string
from redis.backoff import NoBackoff
from redis.retry import Retry

from infbox.kv.seal import Sealer, box_key
from infbox.kv.tier import Tier

WORKERS = 4
# For a call to begin to be answered; a call of a large chunk may take longer in all.
CALL_SECONDS = 3.0
PAUSE_SECONDS = 10.0
SCAN_COUNT = 1000
Completion = tuple[int, bool, str, list[bool]]


class _TlsConnection(redis.SSLConnection):
    """TLS through the relay's socket, with the far host's name verified."""

    def __init__(self, path: str, **named: object) -> None:
        super().__init__(**named)  # pyright: ignore
        self._path = path

    def _connect(self) -> ssl.SSLSocket:
        bare = socket.socket(socket.AF_UNIX)
        bare.settimeout(self.socket_connect_timeout)
        try:
            bare.connect(self._path)
            wrapped = self._wrap_socket_with_ssl(bare)
        except BaseException:
            bare.close()
            raise
        wrapped.settimeout(self.socket_timeout)
        return wrapped


def connect(params: dict[str, object]) -> redis.Redis:
    """A client, which connects at its first call. The password is not among the parameters: LMCache logs those."""
    password = Path(str(params["password_file"])).read_text(encoding="utf-8").strip() if params["password_file"] else ""
    named: dict[str, object] = {
        "path": params["socket"],
        "db": params["database"],
        "username": params["username"] or None,
        "password": password or None,
        "socket_timeout": CALL_SECONDS,
        # A server that was restarted has closed what was open, and is there.
        "retry": Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        "connection_class": redis.UnixDomainSocketConnection,
    }
    if params["tls_name"]:
        named |= {"connection_class": _TlsConnection, "host": params["tls_name"], "ssl_cert_reqs": "required"}
        named |= {"socket_connect_timeout": CALL_SECONDS, "ssl_ca_certs": params["ca_file"] or None}
    return redis.Redis(connection_pool=redis.ConnectionPool(**named))


class Client:
    """A store as LMCache's adapter asks for it: calls that return numbers, and completions of them behind an event."""

    def __init__(self, server: redis.Redis, hidden: Callable[[str], str], failed: Callable[[str, str], None]) -> None:
        self._server = server
        self._hidden = hidden
        self._failed = failed
        self._moving = ThreadPoolExecutor(WORKERS, "kv-remote")
        self._asking = ThreadPoolExecutor(1, "kv-remote-lookup")  # not behind what is being moved
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = Lock()
        self._done: deque[Completion] = deque()
        self._calls = 0
        self._away_until = 0.0

    def event_fd(self) -> int:
        """Readable when there are completions."""
        return self._event

    def submit_batch_set(self, names: list[str], values: list[memoryview]) -> int:
        """Store each value under its name."""
        calls = [partial(self._set, *each) for each in zip(names, values, strict=True)]
        return self._submit(self._moving, "store", calls)

    def submit_batch_get(self, names: list[str], places: list[memoryview]) -> int:
        """Fill each place with what is stored under its name."""
        calls = [partial(self._get, *each) for each in zip(names, places, strict=True)]
        return self._submit(self._moving, "load", calls)

    def submit_batch_exists(self, names: list[str]) -> int:
        """Whether each name is there, in one call."""
        return self._submit(self._asking, "lookup", [partial(self._exist, names)])

    def submit_batch_delete(self, names: list[str]) -> int:
        """Delete what is stored under these names."""
        return self._submit(self._moving, "delete", [partial(self._delete, name) for name in names])

    def exist(self, names: list[str]) -> list[bool]:
        """Whether each name is there, at once and not in the background; nothing is where the store is away."""
        found = self._call("lookup", partial(self._exist, names))
        return found if len(found) == len(names) else [False] * len(names)

    def drain_completions(self) -> list[Completion]:
        """Those since the last call: number, whether all is well, why not, and what came of each name."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with self._lock:
            done = list(self._done)
            self._done.clear()
        return done

    def close(self) -> None:
        """Give everything back."""
        for pool in (self._moving, self._asking):
            pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()
        os.close(self._event)

    def delete_matching(self, pattern: str) -> int:
        """Delete every name of a pattern, at once and not in the background. Returns how many."""
        count = 0
        for name in self._server.scan_iter(pattern, SCAN_COUNT):
            count += int(self._server.unlink(name))
        return count

    def _set(self, name: str, value: memoryview) -> bool:
        return bool(self._server.set(self._hidden(name), value))

    def _delete(self, name: str) -> bool:
        return bool(self._server.unlink(self._hidden(name)))

    def _get(self, name: str, place: memoryview) -> bool:
        value = self._server.get(self._hidden(name))
        if value is None or len(value) > len(place):
            return False
        place.cast("B")[: len(value)] = value
        return True

    def _exist(self, names: list[str]) -> list[bool]:
        with self._server.pipeline(transaction=False) as calls:
            for name in names:
                calls.exists(self._hidden(name))
            return [bool(found) for found in calls.execute()]

    def _submit(
        self, pool: ThreadPoolExecutor, operation: str, calls: Sequence[Callable[[], bool | list[bool]]]
    ) -> int:
        with self._lock:
            self._calls += 1
            number = self._calls
        futures = [pool.submit(self._call, operation, call) for call in calls]
        left = [len(futures)]

        def one_done(_: Future[list[bool]]) -> None:
            with self._lock:
                left[0] -= 1
                if left[0]:
                    return
                each = [one for future in futures for one in ([] if future.cancelled() else future.result())]
                self._done.append((number, all(each) if operation == "store" else True, "", each))
            os.eventfd_write(self._event, 1)

        for future in futures:
            future.add_done_callback(one_done)
        return number

    def _call(self, operation: str, call: Callable[[], bool | list[bool]]) -> list[bool]:
        """What came of a call: nothing, where the store is away."""
        if time.monotonic() < self._away_until:
            self._failed(operation, "")
            return [False]
        try:
            result = call()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as fault:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            what = "it hangs" if isinstance(fault, redis.TimeoutError) else "it does not answer"
            self._failed(operation, f"{what}: {fault}; it is tried again in {PAUSE_SECONDS:g} s")
        except Exception as fault:  # whatever it is: a call without a completion is a request that waits for ever
            self._failed(operation, f"it refuses: {fault}")
        else:
            return result if isinstance(result, list) else [result]
        return [False]


class Remote(Tier):
    """Chunks in Redis or Valkey, which evicts by itself. `params`: `key_file`, `context`, and those of `connect`."""

    def __init__(self, params: dict[str, object], l1_memory_desc: object = None) -> None:
        del l1_memory_desc  # for adapters that register the memory with a device
        self._sealer = Sealer(box_key(Path(str(params["key_file"]))), str(params["context"]))
        super().__init__("redis", Client(connect(params), self._hidden, self.failed))

    def has(self, keys: list[ObjectKey]) -> list[bool]:
        """Whether each is there, also what earlier daemons stored."""
        return self._client.exist([_object_key_to_string(key) for key in keys])

    def clear(self, tenant: str | None) -> int:
        """Delete what a tenant has, or all, also what earlier daemons stored. Returns how many chunks."""
        count = self._client.delete_matching(self._sealer.hidden_pattern(tenant))
        self.forgotten([key for key in self.held() if tenant is None or key.cache_salt == tenant])
        return count

    def _hidden(self, name: str) -> str:
        # A fifth part is the tenant: native_connector_l2_adapter._object_key_to_string.
        parts = name.split("@")
        return self._sealer.hidden(parts[4] if len(parts) > 4 else "", name)
