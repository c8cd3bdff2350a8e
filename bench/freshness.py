"""How long a save takes to be visible to the next request, in a generated workspace of 100,000 files.

Starts the installed `infbox-watcher`, saves files while nothing else happens and then under 50 saves a second, and asks
for the pack until it is another one, as the gateway does. The peer is the least that is possible: a bare reader of
inotify events of the same save in the same run. Also: the first index against `git ls-files` and reading the bytes,
memory, and the wake-ups of a watcher that nobody asks::

    python bench/freshness.py --files 100000 --json freshness.json
"""

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import inotify_simple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "pack"))
from tiny_tokenizers import QWEN_TOKENS, tokenizer_json

from infbox.engine_probe import UnixConnection

PROGRAM = Path(sys.executable).with_name("infbox-watcher")
FILES_A_FOLDER = 20
# A person, or an agent, saves the same files again and again.
WORKING_SET = 20
PACK = "/workspaces/bench/work/pack"


def generate(root: Path, files: int, rng: random.Random) -> None:
    """Files of 300 bytes to 8 KB in folders of 20, committed."""
    words = ["def", "return", "value", "self", "import", "path", "for", "in", "if", "not", "None", "=", "(x)", ":"]
    for number in range(files):
        place = root / f"p{number // 2000}/d{number // FILES_A_FOLDER % 100}/f{number}.py"
        if number % FILES_A_FOLDER == 0:
            place.parent.mkdir(parents=True, exist_ok=True)
        lines = (" ".join(rng.choices(words, k=8)) for _ in range(rng.choice([8, 20, 60, 200])))
        place.write_text("\n".join(lines) + "\n")
    for words_of_git in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        command = ["git", "-c", "user.name=b", "-c", "user.email=b@example.com", "-c", "gc.auto=0", *words_of_git]
        subprocess.run(command, cwd=root, check=True)


def scan_peer(root: Path) -> float:
    """Seconds that git's list and reading the bytes take."""
    began = time.perf_counter()
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.split(b"\0")
    for name in names:
        if name:
            (root / os.fsdecode(name)).read_bytes()
    return time.perf_counter() - began


class Served:
    """A running watcher, and questions to it."""

    def __init__(self, folder: Path, root: Path, tokens: int, model: Path | None) -> None:
        given = model.read_text() if model else tokenizer_json(QWEN_TOKENS)
        (folder / "tokenizer.json").write_text(given)
        workspaces = [{"name": "work", "tenant": "bench", "path": str(root)}]
        listed = {"model": str(folder), "pack_tokens": tokens, "workspaces": workspaces}
        (folder / "workspaces.json").write_text(json.dumps(listed))
        self.socket = str(folder / "w.sock")
        settings = {
            **os.environ,
            "WATCHER_SOCKET": self.socket,
            "WATCHER_WORKSPACES_FILE": str(folder / "workspaces.json"),
            "WATCHER_STATE_DIR": str(folder / "state"),
        }
        began = time.perf_counter()
        self.process = subprocess.Popen([PROGRAM], env=settings)
        while self.state() != "ready":
            time.sleep(0.05)
        self.index_seconds = time.perf_counter() - began

    def ask(self, path: str, etag: str = "") -> tuple[int, str, bytes]:
        connection = UnixConnection(self.socket, 60)
        connection.request("GET", path, headers={"If-None-Match": etag} if etag else {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers.get("ETag", ""), body

    def state(self) -> str:
        try:
            return json.loads(self.ask("/workspaces")[2])["workspaces"][0]["state"]
        except OSError:
            return "starting"

    def resident_mb(self, field: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def wake_ups(self) -> int:
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total


class BareReader:
    """The limit: a thread that waits for one folder's events and notes when the file was closed."""

    def __init__(self, folder: Path) -> None:
        self._inotify = inotify_simple.INotify()
        self._inotify.add_watch(folder, inotify_simple.flags.CLOSE_WRITE)

    def seconds(self, save: Any) -> float:
        began = save()
        select.select([self._inotify.fileno()], [], [], 5)
        list(self._inotify.read(timeout=0))
        return time.perf_counter() - began


def save(place: Path, number: int) -> float:
    """Save a file as an editor does, with one line changed. Returns when it was saved."""
    text = place.read_text().split("\n")
    text[len(text) // 2] = f"changed = {number}"
    place.write_text("\n".join(text))
    return time.perf_counter()


def visible(served: Served, place: Path, number: int) -> float:
    """Seconds from a save to the answer of the request that was made at once, which has to hold it."""
    _, etag, _ = served.ask(PACK)
    began = save(place, number)
    while True:
        status, now, _ = served.ask(PACK, etag)
        if status == 200 and now != etag:
            return time.perf_counter() - began


def disturb(places: list[Path], rate: float, stop: threading.Event) -> None:
    """Save other files, `rate` a second."""
    number = 0
    while not stop.wait(1 / rate):
        number += 1
        save(places[number % len(places)], number)


def summary(name: str, seconds: list[float], target_ms: float | None = None) -> dict[str, Any]:
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    found = {
        key: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 2) for key, share in at.items()
    }
    return {"name": name, **found, "unit": "ms", "count": len(ordered), "target_p95": target_ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--saves", type=int, default=100)
    parser.add_argument("--pack-tokens", type=int, default=100_000)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json (default: one of 400 pieces)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="ib-") as temporary:
        folder, root = Path(temporary), Path(temporary) / "work"
        root.mkdir()
        generate(root, options.files, rng)
        places = rng.sample(sorted(root.glob("p*/d*/*.py")), min(options.files, 2 * WORKING_SET))
        scan_peer(root)  # into the page cache, for both
        peer = scan_peer(root)
        served = Served(folder, root, options.pack_tokens, options.tokenizer)
        try:
            results = measure(served, places, options.saves)
            facts = {
                "files": options.files,
                "first_index_seconds": round(served.index_seconds, 2),
                "git_and_reading_seconds": round(peer, 2),
                "resident_mb": round(served.resident_mb()),
                "peak_mb": round(served.resident_mb("VmHWM")),
                "cores": os.cpu_count(),
            }
            time.sleep(2)
            before = served.wake_ups()
            time.sleep(5)
            facts["wake_ups_in_5_idle_seconds"] = served.wake_ups() - before
        finally:
            served.process.terminate()
            served.process.wait()
        shutil.rmtree(root)
    print(f"{'save → visible':<34}{'p50':>9}{'p95':>9}{'max':>9}{'target p95':>12}   ms")
    for each in results:
        target = f"{each['target_p95']:g}" if each["target_p95"] else ""
        print(f"{each['name']:<34}{each['p50']:>9}{each['p95']:>9}{each['max']:>9}{target:>12}")
    for name, value in facts.items():
        print(f"{name:<34}{value:>9}")
    if options.json:
        options.json.write_text(json.dumps({"results": results, **facts}, indent=1) + "\n")


def measure(served: Served, places: list[Path], saves: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    own, others = places[: len(places) // 2], places[len(places) // 2 :]
    bare = [
        BareReader(place.parent).seconds(lambda place=place: save(place, -1)) for place in own * (saves // len(own) + 1)
    ]
    served.ask(PACK)
    time.sleep(1)
    idle = [visible(served, own[number % len(own)], number) for number in range(saves)]
    stop = threading.Event()
    disturber = threading.Thread(target=disturb, args=(others, 50, stop))
    disturber.start()
    try:
        busy = [visible(served, own[number % len(own)], saves + number) for number in range(saves)]
    finally:
        stop.set()
        disturber.join()
    return [
        summary("bare inotify reader (the limit)", bare),
        summary("request after a save, idle", idle, 100),
        summary("request after a save, 50 saves/s", busy, 250),
    ]


if __name__ == "__main__":
    main()
