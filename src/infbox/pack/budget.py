"""Which files are shown whole, and what is said of the others.

Where a workspace is larger than its budget, whole are the most useful files: recently changed, central (their name is
spoken of in many files) and small; tests last. The others are listed by name, the most useful of them with what they
define (`infbox.pack.symbols`).

What programs write for programs is never shown whole (`is_machine_written`): hashes and coordinates say nothing to a
model and cost the most, one token a digit. In the history of flask, `uv.lock` is a third of all tokens and two thirds
of the changed ones.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import log1p, sqrt
from pathlib import PurePosixPath

from infbox.pack.history import path_bytes

_WORD = re.compile(r"[^\W\d]\w{2,}")
_TEST_FOLDERS = frozenset({"test", "tests", "testing", "testdata", "__tests__", "spec", "specs"})
_TEST_NAME = re.compile(r"^(test|conftest)([_.-]|$)|[_.-](test|tests|spec)$")
# Files that are called after what they are part of: it is their folder's name that others speak of.
_NAMELESS = frozenset({"__init__", "__main__", "index", "mod", "lib", "main"})

_LOCK_NAMES = re.compile(
    r"(uv|poetry|pdm|Pipfile|Cargo|yarn|bun|deno|composer|Gemfile|flake|mix|pubspec|Podfile|\.terraform)\.lock(\.hcl)?"
    r"|(package-lock|npm-shrinkwrap|packages\.lock)\.json|pnpm-lock\.yaml|pylock\.toml|go(\.work)?\.sum"
    r"|gradle\.lockfile|Package\.resolved"
)
_MINIFIED = re.compile(r"\.(min\.(js|css|mjs)|(js|css|mjs)\.map)$")
# Below these no content is called machine-written.
_FEW_CHARACTERS = 2_000
_DIGIT_SHARE = 0.3
_LINE_CHARACTERS = 1_000
_NOT_DIGITS = str.maketrans("", "", "0123456789")


def is_machine_written(path: str, text: str) -> bool:
    """Whether a file is locked versions, minified code, or mostly digits: hashes, coordinates, tables of numbers."""
    name = path.rpartition("/")[2]
    if _LOCK_NAMES.fullmatch(name) or _MINIFIED.search(name):
        return True
    if len(text) < _FEW_CHARACTERS:
        return False
    digits = len(text) - len(text.translate(_NOT_DIGITS))
    return digits > _DIGIT_SHARE * len(text) or len(text) > _LINE_CHARACTERS * (text.count("\n") + 1)


def rank(texts: Mapping[str, str], tokens: Mapping[str, int]) -> list[str]:
    """Paths, the most useful first.

    Args:
        texts: the files, least recently changed first.
        tokens: what each of them costs, with its title.
    """
    mentions = _mentions(texts)
    most = log1p(max(mentions.values(), default=0)) or 1.0
    count = len(texts)

    def usefulness(path: str, position: int) -> float:
        recency = (position + 1) / count
        centrality = log1p(mentions[path]) / most
        return (recency + centrality) / sqrt(max(tokens[path], 1))

    scores = {path: usefulness(path, position) for position, path in enumerate(texts)}
    return sorted(texts, key=lambda path: (is_test(path), -scores[path], path_bytes(path)))


def choose(ranking: Iterable[str], tokens: Mapping[str, int], budget_tokens: int) -> frozenset[str]:
    """The paths to show whole: in this order, each that there is still room for."""
    chosen: set[str] = set()
    room = budget_tokens
    for path in ranking:
        if tokens[path] <= room:
            chosen.add(path)
            room -= tokens[path]
    return frozenset(chosen)


def is_test(path: str) -> bool:
    """Whether a path is a test's by the customs of most languages."""
    *folders, name = path.split("/")
    stem, dot, _ = name.rpartition(".")
    return not _TEST_FOLDERS.isdisjoint(folders) or bool(_TEST_NAME.search(stem if dot and stem else name))


def _mentions(texts: Mapping[str, str]) -> dict[str, int]:
    """In how many other files the name of each file is a word."""
    spoken: Counter[str] = Counter()
    own: dict[str, set[str]] = {}
    for path, text in texts.items():
        words = set(_WORD.findall(text))
        own[path] = words
        spoken.update(words)
    return {path: spoken[name] - (name in own[path]) for path in texts for name in [_name(path)]}


def _name(path: str) -> str:
    known = PurePosixPath(path)
    return known.parent.name if known.stem in _NAMELESS else known.stem
