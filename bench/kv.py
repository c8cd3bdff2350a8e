"""Time to the first token of a long prompt: computed, from the engine's own cache, and from each place of kept KV.

Runs against a box that keeps KV, as its administrator: `make demo`, then site.yml with what docs/kv.md says, then::

    python bench/kv.py --box .demo/box.json

Rows: a prompt that nobody asked before (the peer: what a box that keeps nothing does after each restart); the same from
the engine's prefix cache (the limit); from the daemon's RAM, after a restart of the engine, and in a second engine that
runs beside the first; after a restart of engine and daemon from disk, and from Redis where the box has one (the disk's
chunks are deleted first). Each is the median of its repetitions, each repetition is of a prompt of its own; what came
from cache is the engine's own count. The ratio is to the computed one.

Bytes are those of the chunks that were loaded; bandwidth is theirs by the seconds beyond the limit's, so all that is
done on the way is in it. The planner's figures for the same tokens stand beside them.
"""

import argparse
import json
import random
import shlex
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from ttft import WORDS, Box, Seen

CHUNKS = "/var/lib/infbox/kv"
COMPUTED, CACHED, RAM, SECOND, DISK, REDIS = (
    "computed", "engine's prefix cache", "RAM, engine restarted", "RAM, a second engine", "disk, both restarted",
    "Redis, both restarted",
)  # fmt: skip
SECOND_UNIT, SECOND_SOCKET = "infbox-vllm-second", "/run/infbox-vllm-second/vllm.sock"
# The engine's unit once more, with a socket of its own.
SECOND_ENGINE = f"""
set -e
units=/run/systemd/system
mkdir -p $units/{SECOND_UNIT}.service.d
sed -e 's|--config "$kv"|--config "$kv" --uds {SECOND_SOCKET}|' \
    -e 's|RuntimeDirectory=infbox-vllm$|RuntimeDirectory=infbox-vllm-second|' \
    -e 's|--socket [^ ]*|--socket {SECOND_SOCKET}|' /etc/systemd/system/infbox-vllm.service \
    >$units/{SECOND_UNIT}.service
cp /etc/systemd/system/infbox-vllm.service.d/*.conf $units/{SECOND_UNIT}.service.d/
systemctl daemon-reload
systemctl restart {SECOND_UNIT}
"""
# Asks an engine on a socket: the request on stdin, its first token's seconds and counts on stdout.
ASK_SOCKET = """
import http.client, json, socket, sys, time
connection = http.client.HTTPConnection("engine", timeout=300)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
begun = time.perf_counter()
connection.request("POST", "/v1/chat/completions", sys.stdin.read(), {"Content-Type": "application/json"})
usage = json.loads(connection.getresponse().read())["usage"]
usage["seconds"] = time.perf_counter() - begun
print(json.dumps(usage))
"""


def prompt(words: int) -> str:
    """So many words that were never asked before, some three tokens each."""
    return " ".join(f"{random.choice(WORDS)}{random.randrange(99)}" for _ in range(words)) + " What is this?"


def tiers(box: Box) -> dict[str, dict[str, Any]]:
    """What the daemon says of each place."""
    return {tier["name"]: tier for tier in json.loads(box.run("infbox kv status --json"))["tiers"]}


def wait_until_stored(box: Box) -> None:
    before = None
    while (now := {name: tier["bytes"] for name, tier in tiers(box).items()}) != before:
        before = now
        time.sleep(2)


def ask_second(box: Box, text: str, tenant: str) -> Seen:
    """A question to the second engine, for one token: its time is that of the first one."""
    body = {"model": box.model, "messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    given = json.dumps({**body, "cache_salt": tenant}).encode()
    told = json.loads(box.run(f"python3 -c {shlex.quote(ASK_SOCKET)} {SECOND_SOCKET}", given))
    return Seen(told["seconds"], told["prompt_tokens"], (told["prompt_tokens_details"] or {}).get("cached_tokens") or 0)


def measure(box: Box, words: int, repetitions: int, tenant: str) -> dict[str, list[Seen]]:
    """All rows."""
    seen: dict[str, list[Seen]] = {}
    places = tiers(box)

    def note(row: str, text: str) -> None:
        box.ask(prompt(30), box.model)  # whatever is done once
        seen.setdefault(row, []).append(box.ask(text, box.model))

    for _ in range(repetitions):
        text = prompt(words)
        note(COMPUTED, text)
        note(CACHED, text)
        wait_until_stored(box)
        box.run("systemctl restart infbox-vllm")
        note(RAM, text)
        box.run(SECOND_ENGINE)
        ask_second(box, prompt(30), tenant)
        seen.setdefault(SECOND, []).append(ask_second(box, text, tenant))
        box.run(f"systemctl stop {SECOND_UNIT}")
        if "disk" in places:
            box.run("systemctl restart infbox-lmcache infbox-vllm")
            note(DISK, text)
        if "redis" in places:
            box.run(f"systemctl stop infbox-lmcache infbox-vllm; find {CHUNKS} -name '*.data' -delete")
            box.run("systemctl start infbox-lmcache infbox-vllm")
            note(REDIS, text)
    return seen


def planned(tokens: int) -> dict[str, float]:
    """Seconds to load so many tokens, as the planner has it for preset cpu; and its bytes a token."""
    done = subprocess.run(["infbox", "plan", "cpu", "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    seconds = {name: value * tokens / told["context"] for name, value in told["kv_load_seconds"].items()}
    return seconds | {"bytes": told["kv_bytes_per_token"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first token, from where KV may come.")
    parser.add_argument("--box", type=Path, default=Path(".demo/box.json"))
    parser.add_argument("--words", type=int, default=1000, help="words of the prompt, some three tokens each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tenant", default="default", help="of the box's key (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    box = Box(options.box)
    seen = measure(box, options.words, options.repetitions, options.tenant)
    held = tiers(box)["RAM"]
    a_token = held["bytes"] / held["chunks"] / json.loads(box.run("infbox kv status --json"))["chunk_tokens"]
    rows: list[dict[str, Any]] = []
    for name, answers in seen.items():
        middle = {field: statistics.median(getattr(each, field) for each in answers) for field in Seen.__annotations__}
        times = [each.seconds for each in answers]
        rows.append({"name": name, **middle, "least": min(times), "most": max(times)})
    computed, limit = rows[0]["seconds"], rows[1]["seconds"]
    print(f"{'':24}  prompt  cached  first token s       (spread)  of computed   MB  MB/s")
    for row in rows:
        row["of_computed"] = row["seconds"] / computed
        line = (
            "{name:24}  {prompt:6.0f}  {cached:6.0f}  {seconds:13.2f}  ({least:5.2f}-{most:5.2f})  {of_computed:11.3f}"
        )
        print(line.format(**row), end="")
        if row["name"] not in (COMPUTED, CACHED):
            row["bytes"] = row["cached"] * a_token
            row["bytes_per_second"] = row["bytes"] / max(row["seconds"] - limit, 1e-3)
            print(f"  {row['bytes'] / 1e6:3.0f}  {row['bytes_per_second'] / 1e6:4.0f}", end="")
        print()
    plan = planned(int(rows[0]["prompt"]))
    print(f"a token is {a_token:,.0f} bytes; planned: {plan.pop('bytes'):,.0f}")
    print("planned to load: " + ", ".join(f"{seconds:.3f} s from {name}" for name, seconds in plan.items()))
    if options.json:
        options.json.write_text(
            json.dumps({"results": rows, "bytes_per_token": a_token, "planned": plan}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
