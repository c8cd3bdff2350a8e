"""Which files are shown whole where a workspace is larger than its budget.

The most useful ones: recently changed, central (their name is spoken of in many files) and small; tests last. The rest
is listed by name. There is no map of their symbols yet.
"""

import re
from collections import Counter
from collections.abc import Mapping
from math import log1p, sqrt
from pathlib import PurePosixPath

from infbox.pack.history import path_bytes

_WORD = re.compile(r"[^\W\d]\w{2,}")
_TEST_FOLDERS = frozenset({"test", "tests", "testing", "testdata", "__tests__", "spec", "specs"})
_TEST_NAME = re.compile(r"^(test|conftest)([_.-]|$)|[_.-](test|tests|spec)$")
# Files that are called after what they are part of: it is their folder's name that others speak of.
_NAMELESS = frozenset({"__init__", "__main__", "index", "mod", "lib", "main"})


def choose(texts: Mapping[str, str], tokens: Mapping[str, int], budget_tokens: int) -> frozenset[str]:
    """The paths to show whole.

    Args:
        texts: the files, least recently changed first.
        tokens: what each of them costs, with its title.
        budget_tokens: what they may cost together.
    """
    if sum(tokens.values()) <= budget_tokens:
        return frozenset(texts)
    mentions = _mentions(texts)
    most = log1p(max(mentions.values(), default=0)) or 1.0
    count = len(texts)

    def usefulness(path: str, position: int) -> float:
        recency = (position + 1) / count
        centrality = log1p(mentions[path]) / most
        return (recency + centrality) / sqrt(max(tokens[path], 1))

    scores = {path: usefulness(path, position) for position, path in enumerate(texts)}
    chosen: set[str] = set()
    room = budget_tokens
    for path in sorted(texts, key=lambda path: (is_test(path), -scores[path], path_bytes(path))):
        if tokens[path] <= room:
            chosen.add(path)
            room -= tokens[path]
    return frozenset(chosen)


def is_test(path: str) -> bool:
    """Whether a path is a test's by the customs of most languages."""
    known = PurePosixPath(path)
    return not _TEST_FOLDERS.isdisjoint(known.parts[:-1]) or bool(_TEST_NAME.search(known.stem))


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
