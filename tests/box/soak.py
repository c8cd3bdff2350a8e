"""Random faults under load, with a seed: what the box promises must hold after each of them and at the end.

Clients ask fixed questions at temperature 0, in every shape, and some of them leave early. Meanwhile parts of the box
are killed and restarted, and keys come and go. `Soak.run` returns figures; `Soak.violations` must be empty.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from live_box import LiveBox
from streams import VERSIONS, Stream

PROMPTS = [
    "What is the capital of France?",
    "Count from one to ten.",
    "Name three colours.",
]
LENGTHS = {"short": 8, "long": 64}
STUCK_SECONDS = 200
# A kill costs a start and its pause; a restart waits for running answers, at most 20 s, before that.
OUTAGE_BOUND_SECONDS = {"infbox-gateway": 60, "infbox-caddy": 60, "infbox-vllm": 240}
FAULTS = [
    ("kill", "infbox-gateway"), ("kill", "infbox-caddy"), ("restart", "infbox-gateway"), ("restart", "infbox-caddy"),
    ("kill", "infbox-vllm"), ("kill core", "infbox-vllm"), ("restart", "infbox-vllm"), ("key", "infbox-gateway"),
]  # fmt: skip
# A start of the engine takes most of a minute: most faults are elsewhere.
WEIGHTS = [5, 5, 3, 3, 1, 1, 1, 8]
COMMANDS = {
    "kill": "systemctl kill --signal=KILL --kill-who=main {}",
    "kill core": "pkill -KILL --uid infbox-vllm --full VLLM::EngineCore; systemctl is-enabled {}",
    "restart": "systemctl restart --no-block {}",
}
# Open files and memory of main processes, and shared memory that is older than the engine. Prints JSON.
FOOTPRINT = """
import json, os, subprocess
def main_pid(unit):
    return subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, text=True).stdout.strip()
result = {}
for unit in ("infbox-gateway", "infbox-caddy"):
    pid = main_pid(unit)
    kib = [line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")][0]
    result[unit] = {"files": len(os.listdir(f"/proc/{pid}/fd")), "mib": int(kib) // 1024}
begun = os.stat(f"/proc/{main_pid('infbox-vllm')}").st_ctime
result["left_segments"] = [name for name in os.listdir("/dev/shm") if os.stat(f"/dev/shm/{name}").st_ctime < begun - 1]
print(json.dumps(result))
"""


@dataclass
class Soak:
    """One run. All randomness comes of `seed`, save the order in which threads get their turns."""

    box: LiveBox
    seed: int
    clients: int = 3
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _texts: dict[tuple[str, int], str] = field(default_factory=dict)

    def run(self, faults: list[tuple[str, str]]) -> dict[str, object]:
        """Commit these faults one after another under load; returns what is worth printing."""
        begun = time.monotonic()
        self._learn_texts()
        threads = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        rng = random.Random(self.seed)
        for number, (what, unit) in enumerate(faults):
            time.sleep(rng.uniform(0.2, 3))
            print(f"{time.monotonic() - begun:7.1f} s  {number + 1}/{len(faults)}  {what} {unit}", flush=True)
            self._fault(what, unit, rng)
        self._stop.set()
        for thread in threads:
            thread.join(STUCK_SECONDS)
            if thread.is_alive():
                self.violations.append("a client is still waiting at the end")
        return self._judge(begun)

    def plan(self, count: int) -> list[tuple[str, str]]:
        """`count` random faults."""
        return random.Random(self.seed).choices(FAULTS, WEIGHTS, k=count)

    def _learn_texts(self) -> None:
        for prompt in PROMPTS:
            for length in LENGTHS.values():
                choice = self.box.chat(prompt, max_tokens=length)["choices"][0]
                self._texts[prompt, length] = choice["message"]["content"]

    def _fault(self, what: str, unit: str, rng: random.Random) -> None:
        self.counts[f"{what} {unit}"] += 1
        if what == "key":
            return self._key_life()
        begun = time.monotonic()
        self.box.run(COMMANDS[what].format(unit))
        if unit == "infbox-vllm" and rng.random() < 0.5:
            time.sleep(rng.uniform(0, 10))
            other = rng.choice(["infbox-gateway", "infbox-caddy"])
            self.counts[f"kill {other}"] += 1
            self.box.run(COMMANDS["kill"].format(other))
        bound = OUTAGE_BOUND_SECONDS[unit]
        if what == "restart":
            time.sleep(1)  # until it has begun
        path = "/ready" if unit == "infbox-vllm" else "/health"
        while not (self._settled(unit) and self.box.answers(path)):
            if time.monotonic() - begun > bound:
                self.violations.append(f"{unit} does not work {bound} s after {what}: {self.box.journal(unit, bound)}")
                break
            time.sleep(0.2)
        self.longest[unit] = max(self.longest.get(unit, 0), time.monotonic() - begun)
        return None

    def _settled(self, unit: str) -> bool:
        return self.box.run(f"systemctl show {unit} -P ActiveState -P SubState -P Job").split() == ["active", "running"]

    def _key_life(self) -> None:
        name = f"soak-{self.seed}"
        key = self.box.run(f"infbox key remove {name} >/dev/null 2>&1; infbox key add {name}")
        first = self._status(key)
        self.box.run(f"infbox key remove {name}")
        time.sleep(2)
        second = self._status(key)
        if (first, second) != (200, 401):
            self.violations.append(f"a new key got {first}, and {second} once it was removed")

    def _status(self, key: str) -> int:
        end = time.monotonic() + 30
        while True:
            try:
                status = self.box.request("GET", "/v1/models", key=key, timeout=30)[0]
            except (OSError, http.client.HTTPException):
                status = 0
            if status in (200, 401) or time.monotonic() > end:
                return status
            time.sleep(0.2)

    def _client(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        while not self._stop.is_set():
            prompt, kind = rng.choice(PROMPTS), rng.choice(list(LENGTHS))
            shape = rng.choice(["whole", "stream", "stream", "abort"])
            begun = time.monotonic()
            try:
                if shape == "whole":
                    self._whole(prompt, LENGTHS[kind])
                else:
                    self._stream(Stream(self.box, rng.choice(VERSIONS), prompt, max_tokens=LENGTHS[kind]),
                                 prompt, LENGTHS[kind], rng.uniform(0.1, 3) if shape == "abort" else None)  # fmt: skip
            except AssertionError as fault:
                self.violations.append(f"{kind} {shape}: {fault}")
            if time.monotonic() - begun > STUCK_SECONDS:
                self.violations.append(f"a {kind} {shape} took {time.monotonic() - begun:.0f} s")
            time.sleep(0.05)

    def _whole(self, prompt: str, length: int) -> None:
        body = {"model": self.box.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": length}
        try:
            status, _, answer = self.box.request(
                "POST", "/v1/chat/completions", {**body, "temperature": 0}, self.box.api_key, timeout=STUCK_SECONDS
            )
        except TimeoutError:
            raise AssertionError(f"stuck for {STUCK_SECONDS} s") from None
        except (OSError, http.client.HTTPException):
            self._failed("transport error")
            return
        if status == 200:
            self._finished(prompt, length, json.loads(answer)["choices"][0]["message"]["content"])
        else:
            assert status in (500, 502, 503), f"{status} {answer[:300]!r}"
            assert b'"error"' in answer
            self._failed(str(status))

    def _stream(self, stream: Stream, prompt: str, length: int, leave_after: float | None) -> None:
        if leave_after is not None:
            time.sleep(leave_after)
            stream.leave()
            self.counts["requests aborted"] += 1
            return
        stream.wait_for_end(STUCK_SECONDS)
        if stream.ending != "clean":
            self._failed("transport error")
        elif stream.failed:
            assert not stream.done, f"an error and [DONE]: {stream}"
            self._failed("error event")
        elif b'"error"' in stream.data and b"data: " not in stream.data:
            self._failed("50x")
        else:
            assert stream.done, f"a clean end of a cut answer: {stream}"
            self._finished(prompt, length, stream.text)

    def _finished(self, prompt: str, length: int, text: str) -> None:
        self.counts["requests finished"] += 1
        assert text == self._texts[prompt, length], f"{prompt!r} got {text!r} for {self._texts[prompt, length]!r}"

    def _failed(self, how: str) -> None:
        self.counts[f"requests ended by {how}"] += 1
        time.sleep(0.5)  # a client that is refused waits a little

    def _judge(self, begun: float) -> dict[str, object]:
        try:
            self.box.wait_until_answering()
        except AssertionError as fault:
            self.violations.append(f"at the end: {fault}")
        time.sleep(2)
        if running := self.box.metric("vllm:num_requests_running"):
            self.violations.append(f"{running:.0f} requests run in the engine that nobody waits for")
        footprint = self.box.python(FOOTPRINT)
        for unit, files, mib in (("infbox-gateway", 60, 150), ("infbox-caddy", 60, 200)):
            if footprint[unit]["files"] > files or footprint[unit]["mib"] > mib:
                self.violations.append(f"{unit} at rest has {footprint[unit]}")
        if footprint["left_segments"]:
            self.violations.append(f"left in /dev/shm: {footprint['left_segments']}")
        return {
            "seed": self.seed,
            "seconds": round(time.monotonic() - begun),
            "operations": dict(sorted(self.counts.items())),
            "restarts by systemd": {unit: self._restarts(unit, begun) for unit in OUTAGE_BOUND_SECONDS},
            "longest outage in seconds": {unit: round(value, 1) for unit, value in self.longest.items()},
            "at rest": footprint,
        }

    def _restarts(self, unit: str, begun: float) -> int:
        """Counted in the journal: systemd's own count begins anew with each restart by hand."""
        journal = f"journalctl --unit {unit} --since=-{time.monotonic() - begun:.0f}s --no-pager"
        return int(self.box.run(f"{journal} | grep --count 'Scheduled restart job'; true"))
