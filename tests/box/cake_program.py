"""Runs on the box in the engine's environment: many prompts at once through Cake, with all that can go wrong meanwhile.

Daemon and engine are real, and its own: a small model, a small KV space, a disk that is slow, fails now and then and is
away for a while, RAM that loses chunks, clients that leave. Prints JSON: what came of the answers, and what was left.
"""

import http.client
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pair_parts import JSON, Pair, Unix, metric, pair, prompts

options = {"requests": 20, "words": [], "seed": random.randrange(10**9)} | json.loads(sys.argv[1])
chance = random.Random(options["seed"])
CONCURRENCY = 8
ABORTED = 0.15


def leave(pair: Pair, tokens: list[int], seconds: float) -> None:
    """Ask, and go away before the answer."""
    connection = Unix(pair.engine)
    connection.request("POST", "/v1/completions", json.dumps(Pair.question(tokens, "kept", 64)), JSON)
    time.sleep(seconds)
    connection.close()


def soak(pair: Pair) -> dict[str, Any]:
    asked = prompts(chance, options["requests"], 12)
    with ThreadPoolExecutor(CONCURRENCY) as clients:
        computed = list(clients.map(lambda each: pair.answer(asked[each], f"computed-{each}"), range(len(asked))))
        list(clients.map(lambda each: pair.answer(each, "kept"), asked[: len(asked) // 2]))
        pair.forget()
        plan = [(each, chance.random() < ABORTED, chance.uniform(0.02, 1.0)) for each in range(len(asked))]

        def one(planned: tuple[int, bool, float]) -> str:
            each, aborted, seconds = planned
            if each == len(asked) // 3:
                (pair.folder / "away").touch()
            elif each == len(asked) // 2:
                (pair.folder / "away").unlink()
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
    # What was lost when the disk was away is stored again when it is asked for again.
    longest = max(asked, key=len)
    pair.answer(longest, "kept")
    pair.forget()
    before = pair.state()["tiers"][1]["loaded_chunks"]
    pair.answer(longest, "kept")
    return {
        "seed": options["seed"],
        "came": {kind: came.count(kind) for kind in sorted(set(came))},
        "preemptions": metric(pair.engine, "vllm:num_preemptions_total"),
        "usage": usage,
        "back": pair.state()["tiers"][1]["loaded_chunks"] - before,
        "left": metric(pair.engine, "vllm:num_requests_running") + metric(pair.engine, "vllm:num_requests_waiting"),
        "cake": pair.state()["cake"],
    }


with tempfile.TemporaryDirectory() as name:
    os.environ |= {"PAIR_READ_FAULTS": "0.05", "PAIR_CHUNK_SECONDS": "0.01", "PAIR_DROP_SECONDS": "0.7"}
    # Where both are slow or fast is not what this is about: every prompt is split that can be.
    always = {"cake.mode": "adaptive", "cake.min_ratio": -1e9}
    small = ["--num-gpu-blocks-override", "80", "--max-num-batched-tokens", "512"]
    with pair(Path(name), *small, *options["words"], cake=always) as running:
        told = soak(running)
print(json.dumps(told))
