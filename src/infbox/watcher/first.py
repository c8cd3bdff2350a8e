"""The first pack of a workspace: in which order its files are, and which are read at all.

A large workspace has files that no pack of its size can hold. They are not read: what is taken is as much as may fit,
by what is known without reading: recently changed and small files first, tests last. `build` chooses among those.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from infbox.errors import InfboxError
from infbox.pack.budget import is_test
from infbox.pack.history import last_changes, oldest_first
from infbox.pack.layout import Pack, Writer
from infbox.pack.rebase import Rules, build
from infbox.pack.repository import find_repository
from infbox.pack.select import Exclusion

# Code is 2.5 to 4.5 bytes a token; what is read is about twice what the budget holds.
BYTES_A_TOKEN = 8

Read = Callable[[str], bytes | Exclusion]
Keep = Callable[[str, bytes | Exclusion], None]


def ages_of(root: Path, paths: Collection[str]) -> dict[str, int]:
    """How many commits ago each file changed, by `last_changes`, for a workspace that may lie in a repository."""
    try:
        repository = find_repository(os.fsencode(os.path.realpath(root)))
        if repository is None:
            return {}
        top = os.fsdecode(repository.top)
        below = os.path.relpath(os.path.realpath(root), top)
        prefix = "" if below == "." else f"{below}/"
        ages = last_changes(Path(top), [prefix + path for path in paths])
    except (InfboxError, OSError):
        return {}
    return {path.removeprefix(prefix): age for path, age in ages.items()}


def may_fit(sizes: Mapping[str, int], ages: Mapping[str, int], rules: Rules) -> frozenset[str]:
    """The files to read.

    Args:
        sizes: of all files, in bytes.
        ages: of those that have a history; the others are as of now.
    """
    if rules.budget_tokens is None:
        return frozenset(sizes)
    room = rules.budget_tokens * BYTES_A_TOKEN
    if sum(sizes.values()) <= room:
        return frozenset(sizes)
    chosen: set[str] = set()
    for path in sorted(sizes, key=lambda path: (is_test(path), ages.get(path, -1), sizes[path], path)):
        if sizes[path] <= room:
            chosen.add(path)
            room -= sizes[path]
    return frozenset(chosen)


def first_pack(
    writer: Writer,
    name: str,
    sizes: Mapping[str, int],
    ages: Mapping[str, int],
    rules: Rules,
    read: Read,
    keep: Keep,
    pass_over: Callable[[str], None],
) -> Pack:
    """Read and write down a workspace.

    Args:
        sizes: of all its files, in bytes.
        keep: is told what was read of each file.
        pass_over: is told the files that are not read.
    """
    chosen = may_fit(sizes, ages, rules)
    others = sizes.keys() - chosen
    for path in others:
        pass_over(path)

    def contents() -> Iterator[tuple[str, bytes]]:
        for path in oldest_first(chosen, dict(ages)):
            content = read(path)
            keep(path, content)
            if isinstance(content, bytes):
                yield path, content

    return build(writer, name, contents(), rules)
