"""Runs on the box in the engine's environment, beside `pair_parts.py`: what bench/cake.py measures. Prints JSON.

Daemon and engine are of its own, with the box's model. The engine's connector is Cake's, with a mode that is read from
a file for each prompt, so that one engine answers in all of them, in turns.
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pair_parts import Pair, pair

from infbox.cake.connector import CakeConnector

MODES = {"compute": "compute", "load": "load", "cake": "adaptive"}
CHUNK_TOKENS = 256
# Of a prompt that is not counted, which tells the engine of the new bandwidth as those before it would have.
FIRST_TOKENS = 1100


class Switched(CakeConnector):
    """Cake's, in the mode of the moment."""

    def _decide(self, *given: Any) -> Any:
        self.mode = Path(os.environ["CAKE_MODE"]).read_text()
        return super()._decide(*given)


def measure(of: Pair, chance: random.Random, given: dict[str, Any]) -> list[dict[str, Any]]:
    def prompt(tokens: int) -> list[int]:
        return [chance.randrange(1000, 40000) for _ in range(tokens)]

    def first_token(tokens: list[int], how: str) -> tuple[float, list[int]]:
        of.forget()
        (of.folder / "mode").write_text(MODES[how])
        begun = time.perf_counter()
        answer = of.answer(tokens, "bench", 1)
        return time.perf_counter() - begun, answer

    def split() -> int:
        told = of.state()["cake"]
        return told["prompts"].get("split", 0) - sum(told["fallbacks"].values())

    asked, first = [prompt(given["tokens"]) for _ in range(given["runs"])], prompt(FIRST_TOKENS)
    for each in (first, *asked):
        of.answer(each, "bench", 1)
        of.wait_until_stored()
    seen: list[dict[str, Any]] = []
    for bandwidth in given["bandwidths"]:
        (of.folder / "bandwidth").write_text(repr(bandwidth * 1e6) if bandwidth else "inf")
        first_token(first, "load")
        for run, tokens in enumerate(asked):
            order = list(MODES)
            chance.shuffle(order)
            answers: list[list[int]] = []
            for how in order:
                before = split()
                seconds, answer = first_token(tokens, how)
                answers.append(answer)
                one = {"bandwidth": bandwidth, "run": run, "how": how, "seconds": seconds, "split": split() - before}
                seen.append(one)
                print(one, file=sys.stderr, flush=True)
            if answers != [answers[0]] * len(answers):
                raise SystemExit(f"at {bandwidth} MB/s the first tokens differ: {order}, {answers}")
    return seen


def main() -> None:
    given = {"seed": 170318, **json.loads(sys.argv[1])}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mode").write_text("compute")
        more = {
            "KV_L1_GIB": "1.5", "KV_L2_GIB": "8", "KV_CHUNK_TOKENS": str(CHUNK_TOKENS),
            "PAIR_CONNECTOR": "cake_program.Switched", "CAKE_MODE": str(folder / "mode"),
            "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
        }  # fmt: skip
        words = ["--max-model-len", "8192", "--block-size", "128"]
        with pair(folder, *words, cake={}, given=Path(given["model"]), more=more) as running:
            seen = measure(running, random.Random(given["seed"]), given)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
