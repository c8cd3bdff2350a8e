"""Restarts of daemon and engine at random moments under load: one with the other tests of KV, fifty in `make soak`.

Clients ask prompts whose computed answers are known, and new ones. No answer may be another than the computed one, no
request may hang, and what is kept has to be found again within 30 seconds of the restarted service being ready.
"""

import http.client
import random
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from kept import ask, forget, prompt, state, wait_until_stored
from live_box import LiveBox, until

pytestmark = pytest.mark.kv

WORDS = 150  # some 450 tokens
KNOWN = 6
STUCK_SECONDS = 200
FOUND_SECONDS = 30
FAULTS = [
    "systemctl restart infbox-lmcache", "systemctl kill --signal KILL infbox-lmcache",
    "systemctl restart infbox-vllm", "systemctl kill --signal KILL --kill-who main infbox-vllm",
]  # fmt: skip


@dataclass
class Load:
    """Clients that ask until told to stop; what went wrong is in `violations`."""

    box: LiveBox
    seed: int
    texts: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def learn(self) -> None:
        """Compute the known prompts."""
        for number in range(KNOWN):
            self.texts[number] = ask(self.box, prompt(self.seed + number, WORDS)).text

    def client(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        while not self.stop.is_set():
            which = chance.choice([*self.texts, None])
            seed = self.seed + (which if which is not None else chance.randrange(10**6, 10**9))
            begun = time.monotonic()
            try:
                text = ask(self.box, prompt(seed, WORDS)).text
            except (AssertionError, OSError, http.client.HTTPException, TimeoutError) as fault:
                self.counts[f"failed: {type(fault).__name__}"] += 1
                time.sleep(0.5)
            else:
                self.counts["answered"] += 1
                if which is not None and text != self.texts[which]:
                    self.violations.append(f"prompt {which} got {text!r} for {self.texts[which]!r}")
            if time.monotonic() - begun > STUCK_SECONDS:
                self.violations.append(f"a request took {time.monotonic() - begun:.0f} s")


def found_again(box: LiveBox, load: Load) -> bool:
    """Whether a known prompt is had without computing it, once the engine has forgotten its own cache."""
    try:
        forget(box)
        return ask(box, prompt(load.seed, WORDS)).loaded
    except (AssertionError, OSError, http.client.HTTPException, ValueError):
        return False


def test_restarts_under_load_cost_no_answer(box: LiveBox, pytestconfig: pytest.Config, capsys) -> None:
    given = pytestconfig.getoption("seed")
    seed = secrets.randbelow(10**6) if given is None else given
    chance, load, longest = random.Random(seed), Load(box, seed), 0.0
    load.learn()
    wait_until_stored(box)
    count = pytestconfig.getoption("kv_restarts")
    for number, fault in enumerate(chance.choices(FAULTS, k=count)):
        load.stop.clear()
        clients = [threading.Thread(target=load.client, args=(each + 10 * number,)) for each in range(2)]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0.2, 8))
        with capsys.disabled():
            print(f"\nseed {seed}, {number + 1} of {count}: {fault}", end="", flush=True)
        box.run(fault, timeout=300)
        unit = fault.split()[-1]
        until(lambda unit=unit: box.show(unit, "ActiveState") == "active", 240, f"{unit} is up after {fault}")
        box.wait_until_answering()
        ready = time.monotonic()
        time.sleep(chance.uniform(0, 4))
        # The engine cannot forget while it computes: what is kept is looked for without the load.
        load.stop.set()
        for client in clients:
            client.join(STUCK_SECONDS + 60)
            assert not client.is_alive(), "a request is stuck"
        # On a busy machine the last clients' answers take long: a few tries are due after them in any case.
        left = max(FOUND_SECONDS - (time.monotonic() - ready), 10)
        until(lambda: found_again(box, load), left, f"KV is found again after {fault}")
        longest = max(longest, time.monotonic() - ready)
    segments = [name for name in box.run("ls /dev/shm/infbox/shm").split() if name.startswith("lmcache_kv_")]
    with capsys.disabled():
        print(f"\n{dict(load.counts)}; longest until KV was found again: {longest:.0f} s", flush=True)
    assert not load.violations, load.violations
    assert len(segments) == 1, segments
    assert state(box)["engines"] == 1
    assert box.metric("vllm:num_requests_running") == 0
