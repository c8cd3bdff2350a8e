"""Runs on the box in the engine's environment: many prompts at once through Cake, with all that can go wrong meanwhile.

Daemon and engine are real, and its own: a small model, a small KV space, a disk that is slow and fails now and then, or
a Redis, either of them away for a while, RAM that loses chunks, clients that leave. Prints JSON: what came of the
answers, and what was left.
"""

import http.client
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pair_parts import JSON, Pair, Unix, metric, pair, prompts

options = {"requests": 20, "words": [], "redis": False, "seed": random.randrange(10**9)} | json.loads(sys.argv[1])
chance = random.Random(options["seed"])
CONCURRENCY = 8
ABORTED = 0.15


class Disk:
    """The daemon's, which fails as it says itself."""

    def __init__(self, folder: Path) -> None:
        self._away = folder / "away"
        self.environment = {"PAIR_READ_FAULTS": "0.05", "PAIR_CHUNK_SECONDS": "0.01"}

    def leave(self) -> None:
        self._away.touch()

    def come_back(self) -> None:
        self._away.unlink()


class Redis:
    """A server on a socket, which has forgotten everything when it is back."""

    def __init__(self, folder: Path) -> None:
        path, program = str(folder / "redis.sock"), shutil.which("valkey-server") or "redis-server"
        self._command = [program, "--unixsocket", path, "--port", "0", "--save", ""]
        names = ("USERNAME", "PASSWORD_FILE", "TLS_NAME", "CA_FILE")
        self.environment = {f"KV_REDIS_{name}": "" for name in names}
        self.environment |= {"KV_REDIS_SOCKET": path, "KV_REDIS_DATABASE": "0", "KV_L2_GIB": "0"}
        self.come_back()

    def leave(self) -> None:
        self._process.kill()
        self._process.wait()

    def come_back(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)


def leave(pair: Pair, tokens: list[int], seconds: float) -> None:
    """Ask, and go away before the answer."""
    connection = Unix(pair.engine)
    connection.request("POST", "/v1/completions", json.dumps(Pair.question(tokens, "kept", 64)), JSON)
    time.sleep(seconds)
    connection.close()


def soak(pair: Pair, storage: Disk | Redis) -> dict[str, Any]:
    asked = prompts(chance, options["requests"], 12)
    with ThreadPoolExecutor(CONCURRENCY) as clients:
        computed = list(clients.map(lambda each: pair.answer(asked[each], f"computed-{each}"), range(len(asked))))
        list(clients.map(lambda each: pair.answer(each, "kept"), asked[: len(asked) // 2]))
        pair.forget()
        plan = [(each, chance.random() < ABORTED, chance.uniform(0.02, 1.0)) for each in range(len(asked))]

        def one(planned: tuple[int, bool, float]) -> str:
            each, aborted, seconds = planned
            if each == len(asked) // 3:
                storage.leave()
            elif each == len(asked) // 2:
                storage.come_back()
            try:
                if aborted:
                    leave(pair, asked[each], seconds)
                    return "aborted"
                return "equal" if pair.answer(asked[each], "kept") == computed[each] else "another"
            except (OSError, RuntimeError, http.client.HTTPException) as fault:
                return f"failed: {fault}"

        usage = [metric(pair.engine, "vllm:kv_cache_usage_perc")]
        came = list(clients.map(one, plan))
    end = time.monotonic() + 20
    while metric(pair.engine, "vllm:num_requests_running") + metric(pair.engine, "vllm:num_requests_waiting"):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    usage.append(metric(pair.engine, "vllm:kv_cache_usage_perc"))
    # What was lost meanwhile is stored again when it is asked for again; a Redis is tried again after a pause.
    longest, back, end = max(asked, key=len), 0, time.monotonic() + 40
    while not back and time.monotonic() < end:
        pair.answer(longest, "kept")
        pair.forget()
        before = pair.state()["tiers"][1]["loaded_chunks"]
        pair.answer(longest, "kept")
        back = pair.state()["tiers"][1]["loaded_chunks"] - before
    return {
        "seed": options["seed"],
        "came": {kind: came.count(kind) for kind in sorted(set(came))},
        "preemptions": metric(pair.engine, "vllm:num_preemptions_total"),
        "usage": usage,
        "back": back,
        "left": metric(pair.engine, "vllm:num_requests_running") + metric(pair.engine, "vllm:num_requests_waiting"),
        "cake": pair.state()["cake"],
    }


with tempfile.TemporaryDirectory() as name:
    storage = (Redis if options["redis"] else Disk)(Path(name))
    # Where both are slow or fast is not what this is about: every prompt is split that can be.
    always = {"cake.mode": "adaptive", "cake.min_ratio": -1e9}
    small = ["--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "512"]
    more = {"PAIR_DROP_SECONDS": "0.7", **storage.environment}
    with pair(Path(name), *small, *options["words"], cake=always, more=more) as running:
        told = soak(running, storage)
    if options["redis"]:
        storage.leave()
print(json.dumps(told))
