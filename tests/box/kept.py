"""What tests of kept KV share: prompts that nobody asked before, what came of them, and what the daemon says."""

import json
import random
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live_box import LiveBox, until

ROOT = Path(__file__).resolve().parents[2]
STATE = "/var/lib/infbox-lmcache"
CHUNKS = "/var/lib/infbox/kv"
REDIS = "/run/infbox-redis/redis.sock"
CHUNK_TOKENS = 256
LONG = 400  # words of a prompt of four chunks
# Of kv.yml, with which the box is made.
DISK_BYTES, TENANT_BYTES = int(0.25 * 2**30), int(0.15 * 2**30)
RUN = random.randrange(10**9)
WORDS = ("orbit", "mass", "thrust", "stage", "fuel", "angle", "burn", "drift", "probe", "signal", "pitch", "payload")


@dataclass(frozen=True)
class Seen:
    """What came of a prompt."""

    text: str
    prompt: int
    cached: int

    @property
    def loaded(self) -> bool:
        """Whether it was had from somewhere, but for what is less than a chunk."""
        return self.cached >= self.prompt - CHUNK_TOKENS


def ask(box: LiveBox, prompt: str, key: str | None = None) -> Seen:
    """Complete a prompt at temperature 0."""
    body = {"model": box.model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
    status, _, answer = box.request("POST", "/v1/completions", body, key or box.api_key)
    assert status == 200, answer
    told = json.loads(answer)
    usage = told["usage"]
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    return Seen(told["choices"][0]["text"], usage["prompt_tokens"], cached)


def prompt(seed: int, words: int = 200) -> str:
    """Some three tokens a word, two chunks in all, which no other seed or run begins with."""
    chance = random.Random(RUN + seed)
    return " ".join(f"{chance.choice(WORDS)}{chance.randrange(99)}" for _ in range(words)) + " The captain is called"


def state(box: LiveBox) -> dict[str, Any]:
    return json.loads(box.run("infbox kv status --json"))


def tier(box: LiveBox, name: str) -> dict[str, Any]:
    return next(each for each in state(box)["tiers"] if each["name"] == name)


def forget(box: LiveBox) -> None:
    """Have the engine forget its own cache, as after a restart."""
    until(lambda: json.loads(box.ask_engine("POST", "/infbox/reset-prefix-cache"))["done"], 30, "the engine forgets")


def wait_until_stored(box: LiveBox) -> None:
    """Until every tier behind the RAM has what it is going to have."""
    before: list[object] = [None]

    def still() -> bool:
        told = state(box)
        now = [(each["bytes"], each["chunks"]) for each in told["tiers"]]
        same, before[0] = not told["storing"] and now == before[0], now
        return same

    until(still, 60, "it is stored")


def converge(box: LiveBox, *words: str, **variables: object) -> str:
    """site.yml's part for the daemon and its store. Returns what Ansible said."""
    inventories = ["-i", "inventories/presets.yml", "-i", str(box.folder / "inventory.yml")]
    command = [Path(sys.executable).with_name("ansible-playbook"), *inventories, "site.yml", "--tags", "redis,lmcache"]
    command += ["--extra-vars", "@tests/box/kv.yml", "--extra-vars", json.dumps(variables), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def run_program(box: LiveBox, name: str, *words: str, seconds: int = 180) -> dict[str, Any]:
    """Run a program of this folder on the box, in the engine's environment. Returns what it prints at its end."""
    folder = f"/run/infbox-test-{RUN}"
    for file in ("kv_parts.py", "pair_parts.py", "pair_daemon.py", name):
        box.run(f"mkdir -p {folder} && cat >{folder}/{file}", (Path(__file__).parent / file).read_text())
    # The engine's own compiled code, which it leaves as it is.
    environment = "PYTHONPYCACHEPREFIX=/var/cache/infbox-vllm/python PYTHONDONTWRITEBYTECODE=1"
    environment += " LMCACHE_TRACK_USAGE=false LMCACHE_LOG_LEVEL=ERROR"
    program = f"/opt/infbox/vllm/bin/python {folder}/{name} {shlex.join(words)}"
    return json.loads(box.run(f"{environment} {program}", timeout=seconds).splitlines()[-1])


def restart(box: LiveBox, *units: str) -> None:
    box.run(f"systemctl restart {' '.join(units)}", timeout=300)


def another_daemon(box: LiveBox, between: str = "true") -> None:
    """Restart the daemon, with a command while it is down, and have the engine forget what it has itself."""
    box.run(f"systemctl stop infbox-lmcache && {between} && systemctl start infbox-lmcache", timeout=150)
    until(lambda: state(box)["engines"] == 1, 30, "the engine is registered again, without a restart of its own")
    forget(box)


def now(box: LiveBox) -> str:
    """The box's time, for `said`."""
    return box.run("date +%s")


def said(box: LiveBox, unit: str, text: str, since: str) -> bool:
    """Whether a unit has said a text since then."""
    return bool(box.run(f"journalctl --quiet --unit {unit} --no-pager --since @{since} --grep '{text}'", check=False))
