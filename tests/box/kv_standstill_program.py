"""Runs on the box in the engine's environment: a daemon that stands still while it has an engine's memory.

The KV space holds one prompt and a half, so that what is given up would be used at once. Prints JSON: of each, why not.
"""

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pair_parts import JSON, Pair, Unix, metric, pair

chance = random.Random(170318)
BEAT = 0.5
TOKENS = 1000
ANSWER = 4
SMALL = ["--num-gpu-blocks-override", "50", "--max-model-len", "1280"]


def until(what: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise RuntimeError("it does not come to that")
        time.sleep(0.02)


class Box(Pair):
    """The pair, and what is asked of it."""

    clients: ThreadPoolExecutor

    def __init__(self, of: Pair) -> None:
        self.__dict__ |= of.__dict__
        self.clients = ThreadPoolExecutor(4)

    def fresh(self, count: int) -> list[tuple[list[int], list[int]]]:
        """Prompts, and their answers as computed."""
        asked = [[chance.randrange(3, 4096) for _ in range(TOKENS)] for _ in range(count)]
        return [(each, self.answer(each, f"computed-{number}", ANSWER)) for number, each in enumerate(asked)]

    @contextmanager
    def standing_still(self, call: str) -> Iterator[None]:
        """The daemon takes no such call, and soon no heartbeat; on leaving, it goes on where it was."""
        holds = [self.folder / f"hold-{name}" for name in (call, "ping")]
        held = self.folder / f"held-{call}"
        held.unlink(missing_ok=True)
        holds[0].touch()
        try:
            yield
        finally:
            for each in holds:
                each.unlink(missing_ok=True)

    def lose_heartbeat(self, call: str) -> None:
        """Once the call is waiting."""
        until((self.folder / f"held-{call}").exists)
        (self.folder / "hold-ping").touch()
        time.sleep(4 * BEAT)

    def ask(self, tokens: list[int]) -> Any:
        return self.clients.submit(self.answer, tokens, "kept", ANSWER)

    def loaded(self) -> float:
        return metric(self.engine, "vllm:external_prefix_cache_hits_total")

    def registered(self) -> None:
        """The engine has had a heartbeat again, and its daemon knows it."""
        until(lambda: self.state()["engines"] == 1)
        time.sleep(3 * BEAT)


def nothing_else_is_kept_under_a_prompts_name(box: Box) -> str:
    (first, computed), *others = box.fresh(3)
    with box.standing_still("store"):
        assert box.answer(first, "kept", ANSWER) == computed
        box.lose_heartbeat("store")
        # These need the blocks that are still read from.
        waiting = [box.ask(tokens) for tokens, _ in others]
        time.sleep(3)
    came = [each.result(60) for each in waiting] == [answer for _, answer in others]
    box.registered()
    box.forget()
    before = box.loaded()
    again = box.answer(first, "kept", ANSWER)
    if not came or again != computed:
        return f"an answer is another one: {came}, {again == computed}"
    return "" if box.loaded() > before else "what was stored is not found"


def nothing_is_written_into_what_another_computes(box: Box) -> str:
    (first, computed), *others = box.fresh(3)
    box.answer(first, "kept", ANSWER)
    box.forget()
    with box.standing_still("retrieve"):
        waiting = box.ask(first)
        box.lose_heartbeat("retrieve")
        more = [box.ask(tokens) for tokens, _ in others]
        time.sleep(3)
    answers = [each.result(60) for each in (waiting, *more)]
    # From the engine's own cache.
    answers += [box.answer(tokens, "kept", ANSWER) for tokens, _ in reversed(others)]
    told = [answer for _, answer in others]
    return "" if answers == [computed, *told, *reversed(told)] else "an answer is another one"


def one_that_leaves_keeps_its_blocks_until_its_load_has_ended(box: Box) -> str:
    (first, _), (second, computed) = box.fresh(2)
    box.answer(first, "kept", ANSWER)
    box.forget()
    with box.standing_still("retrieve"):
        client = Unix(box.engine)
        client.request("POST", "/v1/completions", json.dumps(Pair.question(first, "kept", ANSWER)), JSON)
        until((box.folder / "held-retrieve").exists)
        client.close()
        more = box.ask(second)
        time.sleep(2)
    if more.result(60) != computed:
        return "an answer is another one"
    until(lambda: metric(box.engine, "vllm:kv_cache_usage_perc") == 0)
    return ""


def what_a_killed_daemon_had_is_given_up(box: Box) -> str:
    (first, computed), (second, other) = box.fresh(2)
    box.answer(first, "kept", ANSWER)
    box.forget()
    with box.standing_still("retrieve"):
        waiting = box.ask(first)
        until((box.folder / "held-retrieve").exists)
        os.kill(box.pids["daemon"], signal.SIGKILL)
        answers = waiting.result(60), box.answer(second, "kept", ANSWER)
    if answers != (computed, other):
        return "an answer is another one"
    box.start_daemon()
    # Its disk has what was stored before.
    for _ in range(10):
        box.registered()
        box.forget()
        before = box.loaded()
        again = box.answer(first, "kept", ANSWER)
        if again != computed:
            return "an answer is another one"
        if box.loaded() > before:
            return ""
    return "the engine does not find what the next daemon has"


CHECKS = [
    nothing_else_is_kept_under_a_prompts_name,
    nothing_is_written_into_what_another_computes,
    one_that_leaves_keeps_its_blocks_until_its_load_has_ended,
    what_a_killed_daemon_had_is_given_up,
]


def holds(check: Callable[[Box], str], box: Box) -> str:
    """Empty, or why not."""
    try:
        return check(box)
    except Exception as fault:
        return repr(fault)


with tempfile.TemporaryDirectory() as name, pair(Path(name), *SMALL, beat=BEAT) as running:
    told = {check.__name__.replace("_", " "): holds(check, Box(running)) for check in CHECKS}
print(json.dumps(told), flush=True)
os._exit(0)  # clients that were given up wait no more
