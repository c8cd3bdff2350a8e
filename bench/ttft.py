"""Time to the first token with a workspace in context: cold, warm and after a save, against what a client does alone.

Runs against a box with a workspace, as its administrator: `make demo`, then::

    python bench/ttft.py --box .demo/box.json

It replaces what is in the box's workspace by a generated program. Rows: the question without any workspace (the limit);
with the workspace, before anything of it is computed, then warm, then at once after a save; and the peer: the same
files pasted into the question in alphabetical order, cold, again, and after the same save. Each row is the median of
its repetitions; what came from cache is the engine's own count. The ratio is to the cold workspace.

Then a save that nobody asks after: when it is warm, and what of that the engine computed, as the box itself says.
"""

import argparse
import io
import json
import random
import shlex
import statistics
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

WORKSPACE = "/srv/workspace"
WORDS = ("orbit", "mass", "thrust", "stage", "fuel", "angle", "burn", "drift", "probe", "signal", "pitch", "payload")


@dataclass(frozen=True)
class Seen:
    """One answer: seconds to its first event, tokens of its prompt, and those that came from cache."""

    seconds: float
    prompt: int
    cached: int


class Box:
    """A box as a client and as its administrator."""

    def __init__(self, path: Path) -> None:
        facts = json.loads(path.read_text())
        self.url, self.ca_file, self.model, self._ssh = facts["url"], facts["ca_file"], facts["model"], facts["ssh"]
        self._headers = {"Authorization": f"Bearer {facts['api_key']}"}

    def run(self, command: str, given: bytes = b"") -> str:
        """A shell command as root on the box."""
        done = subprocess.run([*shlex.split(self._ssh), command], input=given, capture_output=True)
        if done.returncode:
            raise SystemExit(f"error: {command!r} failed on the box: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    def ask(self, text: str, model: str) -> Seen:
        """A question's first token, and the counts at its end; tried again while the workspace is being indexed."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 2,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        while True:
            begun = time.perf_counter()
            with requests.post(
                f"{self.url}/v1/chat/completions", json=body, headers=self._headers, verify=self.ca_file, stream=True
            ) as answer:
                if answer.status_code == 503:
                    time.sleep(0.05)
                    continue
                answer.raise_for_status()
                return self._read(answer, begun)

    @staticmethod
    def _read(answer: requests.Response, begun: float) -> Seen:
        first = 0.0
        usage: dict[str, Any] = {}
        for line in answer.iter_lines(chunk_size=1):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter() - begun
        details: dict[str, int] = usage.get("prompt_tokens_details") or {}
        return Seen(first, usage["prompt_tokens"], details.get("cached_tokens") or 0)

    def wait_until_warm(self) -> dict[str, Any]:
        while True:
            (workspace,) = json.loads(self.run("infbox index status --json"))["workspaces"]
            if workspace["state"] == "ready" and workspace["is_warm"]:
                return workspace
            time.sleep(0.25)


def program(files: int, seed: int) -> dict[str, str]:
    """A generated program: the same for the same seed."""
    chance = random.Random(seed)
    made: dict[str, str] = {}
    for number in range(files):
        lines = [f"def step_{number}_{seed}(state: dict[str, float]) -> float:"]
        for _ in range(8):
            one, other = chance.sample(WORDS, 2)
            lines.append(f'    state["{one}"] += {chance.randrange(1000)} * state["{other}"]')
        made[f"step_{number:03}.py"] = "\n".join([*lines, f'    return state["{chance.choice(WORDS)}"]', ""])
    return made


def place(box: Box, files: dict[str, str]) -> None:
    """Put the program into the workspace, with no index of anything before."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    box.run("systemctl stop infbox-watcher && rm -rf /var/lib/infbox-watcher/*")
    box.run(f"cd {WORKSPACE} && rm -rf ./* ./.git && tar --extract --no-same-owner", archive.getvalue())
    box.run("systemctl start infbox-watcher")


def measure(box: Box, files: int, repetitions: int) -> tuple[dict[str, list[Seen]], list[tuple[float, float]]]:
    """All rows, each of a program and a question that were not there before; and (until warm, computing) of saves."""
    seen: dict[str, list[Seen]] = {}
    saves: list[tuple[float, float]] = []
    code, plain = f"{box.model}:code", box.model

    def note(row: str, text: str, model: str) -> None:
        seen.setdefault(row, []).append(box.ask(text, model))

    for turn in range(repetitions):
        made = program(files, random.randrange(10**6))
        question = f"What does step {turn} return? ({random.randrange(10**9)})"
        place(box, made)
        note("workspace, cold", question, code)
        box.wait_until_warm()
        note("workspace, warm", f"{question} Please.", code)
        changed = f"step_{files // 2:03}.py"
        line = f"    # changed {random.randrange(10**9)}"
        box.run(f"sed -i '3s/.*/{line}/' {WORKSPACE}/{changed}")
        note("workspace, after a save", f"{question} Now.", code)
        note("no workspace", question, plain)
        note("pasted, cold", pasted(made, question), plain)
        note("pasted, again", pasted(made, f"{question} Please."), plain)
        lines = made[changed].split("\n")
        made[changed] = "\n".join([*lines[:2], line, *lines[3:]])
        note("pasted, after a save", pasted(made, f"{question} Now."), plain)
        box.wait_until_warm()
        box.run(f"sed -i '4s/.*/{line} again/' {WORKSPACE}/{changed}")
        time.sleep(0.5)
        told = box.wait_until_warm()
        saves.append((told["warm_seconds"], told["compute_seconds"]))
    return seen, saves


def pasted(files: dict[str, str], question: str) -> str:
    """What a client without a box like this sends."""
    return "".join(f"# {name}\n{text}\n" for name, text in sorted(files.items())) + question


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first token with a workspace in context.")
    parser.add_argument("--box", type=Path, default=Path(".demo/box.json"))
    parser.add_argument("--files", type=int, default=30, help="files of the generated program, some 170 tokens each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    seen, saves = measure(Box(options.box), options.files, options.repetitions)
    for row, answers in seen.items():
        middle = {name: statistics.median(getattr(each, name) for each in answers) for name in Seen.__annotations__}
        results.append({"name": row, **middle})
    cold = next(row["seconds"] for row in results if row["name"] == "workspace, cold")
    print(f"{'':24}  prompt tokens  from cache  first token s  of cold")
    for row in results:
        row["of_cold"] = row["seconds"] / cold
        print("{name:24}  {prompt:13.0f}  {cached:10.0f}  {seconds:13.2f}  {of_cold:7.3f}".format(**row))
    until_warm, computing = (statistics.median(each) for each in zip(*saves, strict=True))
    beyond = statistics.median(warm - computed for warm, computed in saves)
    print(f"save → warm: {until_warm:.2f} s, {computing:.2f} s of it computing, {beyond:.2f} s beyond (target: 1 s)")
    if options.json:
        told = {"until_warm_s": until_warm, "computing_s": computing, "beyond_s": beyond}
        options.json.write_text(json.dumps({"results": results, "save": told}, indent=2) + "\n")


if __name__ == "__main__":
    main()
