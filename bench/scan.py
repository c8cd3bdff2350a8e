"""The first scan of a workspace, as the watcher makes it, beside git and ripgrep.

Makes a workspace of small files in folders of ten, with ignored files and an ignored tree of empty folders, and scans
it with warm file caches, each way in processes of its own, one after the other::

    python bench/scan.py --files 100000 --json scan.json

The peer that counts is `git ls-files -co --exclude-standard` plus reading the bytes of what it names, by cat. ripgrep
(`rg --files`, which reads nothing) is measured where it is installed.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET = 3.0  # times git ls-files plus reading
GIT = "git ls-files -z -co --exclude-standard"
PEERS = {
    "git ls-files": f"{GIT} >/dev/null",
    "git ls-files, reading": f"{GIT} | xargs -0 cat -- >/dev/null",
    "rg --files": "rg --files --hidden --null >/dev/null",
}
PEER = "git ls-files, reading"


def make(root: Path, files: int, ignored_folders: int, commit: bool) -> int:
    """A workspace of that many files that git takes; returns their bytes."""
    choice = random.Random(4)
    words = [choice.randbytes(4).hex() for _ in range(2000)]
    written = 0
    for number in range(files):
        folder = root / f"part{number // 1000:03d}" / f"module{number // 10 % 100:02d}"
        if number % 10 == 0:
            folder.mkdir(parents=True)
            (folder / "made.log").touch()
        text = " ".join(choices := choice.choices(words, k=int(choice.lognormvariate(4.6, 0.9)) + 1))
        written += len(text)
        (folder / f"{choices[0]}{number}.py").write_text(text)
    rules = "*.log\nnode_modules/\n"
    (root / ".gitignore").write_text(rules)
    for number in range(ignored_folders):
        (root / "node_modules" / f"{number // 100}" / f"{number}").mkdir(parents=True)
    if commit:
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        subprocess.run(["git", "add", "."], cwd=root, check=True)
    return written + len(rules)


def scan(root: Path) -> None:
    """Ours, in a process of its own: prints what it did and how long each step took, as JSON."""
    import xxhash

    from infbox.pack.select import Selector

    began = time.perf_counter()
    selector = Selector(root)
    listing = selector.listing()
    listed = time.perf_counter()
    digests: dict[str, int] = {}
    for path in listing.files:
        content = selector.load(path)
        if isinstance(content, bytes):
            digests[path] = xxhash.xxh3_64_intdigest(content)
    ended = time.perf_counter()
    steps = {
        "files": len(digests),
        "folders": len(listing.folders),
        "rules_s": listed - began,
        "hashes_s": ended - listed,
    }
    print(json.dumps({**steps, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}))


def timed(root: Path, command: list[str]) -> tuple[float, str]:
    began = time.perf_counter()
    said = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - began, said


def measure(root: Path, runs: int) -> tuple[list[dict[str, object]], dict[str, float]]:
    """The ways in turn, `runs` times after one that warms the caches; medians of wall-clock seconds."""
    ways = {name: ["sh", "-c", command] for name, command in PEERS.items() if shutil.which(command.split()[0])}
    ways["infbox"] = [sys.executable, __file__, "--scan", str(root)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    steps: dict[str, float] = {}
    for run in range(runs + 1):
        for name, command in ways.items():
            took, said = timed(root, command)
            if run:
                seconds[name].append(took)
            if name == "infbox":
                steps = json.loads(said)
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    rows = [{"name": name, "seconds": took, "ratio": took / medians[PEER]} for name, took in medians.items()]
    return rows, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", metavar="N", type=int, default=100_000)
    parser.add_argument("--ignored-folders", metavar="N", type=int, default=50_000, help="default: %(default)s")
    parser.add_argument("--runs", metavar="N", type=int, default=3, help="medians of so many (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the workspaces are made (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--scan", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scan:
        scan(options.scan)
        return
    if not shutil.which("rg"):
        print("ripgrep is not installed: `rg --files` is NOT MEASURED\n")
    results: list[dict[str, object]] = []
    for kind in ("repository", "folder"):
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            root = Path(place)
            size = make(root, options.files, options.ignored_folders, commit=kind == "repository")
            if kind == "folder":  # so that git can be asked at all: an empty repository, nothing tracked
                own = root.with_name(root.name + ".git")
                subprocess.run(["git", "init", "-q", "--bare", str(own)], check=True)
                os.environ.update(GIT_DIR=str(own), GIT_WORK_TREE=str(root))
            rows, steps = measure(root, options.runs)
            if kind == "folder":
                shutil.rmtree(own)
        print(f"{kind}: {steps['files']:,.0f} files in {steps['folders']:,.0f} folders, {size / 1e6:,.0f} MB")
        print(f"  {'':24} {'seconds':>8} {'ratio':>6}")
        for row in rows:
            print(f"  {row['name']:24} {row['seconds']:8.2f} {row['ratio']:6.2f}")
        parts = f"{steps['rules_s']:.2f} s walk and rules, {steps['hashes_s']:.2f} s reading and hashes"
        print(f"  infbox: {parts}, at most {steps['peak_mb']:,.0f} MB; the target is {TARGET:g} times `{PEER}`\n")
        results += [{"workspace": kind, **row} for row in rows]
        results.append({"workspace": kind, "name": "infbox, steps", **steps})
    if options.json:
        named = {"files": options.files, "ignored_folders": options.ignored_folders, "target_ratio": TARGET}
        options.json.write_text(json.dumps({**named, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
