"""Why a path of a workspace is not taken, with the rule that says so, in git's own words: FILE:LINE:PATTERN.

`git check-ignore` names the rule. It knows no `.infboxignore`, so for those it is asked about a small tree beside: the
folders on the way, with their `.infboxignore` under the name `.gitignore`.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from infbox.pack import gitfiles
from infbox.pack.reading import Exclusion, link_on_the_way, other_kind, printable, proper_path, read_file, unreadable
from infbox.pack.repository import Repository, empty_repository, git_dir_of

if TYPE_CHECKING:
    from infbox.pack.select import Selector

_MAX_RULES_BYTES = 100 * 1024 * 1024  # git's own limit


def explain(selector: "Selector", path: str) -> Exclusion | None:
    """As `Selector.explain`."""
    name = os.fsencode(path)
    if not name:
        return None
    if not proper_path(name):
        return Exclusion("it is no path in the workspace")
    if b".git" in name.split(b"/"):
        return Exclusion("it is git's own")
    repository = selector.repository()
    if link := link_on_the_way(selector.root, name):
        return link
    try:
        mode = os.lstat(os.path.join(selector.root, name)).st_mode
    except OSError as fault:
        return unreadable(selector.root, name, fault)
    is_folder = os.path.isdir(os.path.join(selector.root, name))
    if not is_folder and (other := other_kind(mode)):
        return other
    if path not in selector.taken([path]):
        return _not_listed(selector, repository, name, is_folder)
    content = b"" if is_folder else selector.read(path)
    return content if isinstance(content, Exclusion) else None


def _not_listed(selector: "Selector", repository: Repository, name: bytes, is_folder: bool) -> Exclusion:
    seconds = selector.limits.git_seconds
    listed, folders = selector.index(repository)
    for above in _at_and_above(name):
        inside = above not in folders and git_dir_of(os.path.join(selector.root, above))
        if inside or above in listed.gitlinks:
            return Exclusion("it belongs to another repository", f"{printable(above)}/")
    if rule := _own_rule(selector, repository, name, is_folder):
        return Exclusion("an .infboxignore leaves it out", rule)
    if rule := gitfiles.ignoring_rule(repository, selector.root, name, seconds):
        return Exclusion("git ignores it", rule)
    return Exclusion("git does not list it", f"git ls-files -co --exclude-standard -- {printable(name)}")


def _own_rule(selector: "Selector", repository: Repository, name: bytes, is_folder: bool) -> str:
    prefix = os.path.relpath(selector.root, repository.top) if selector.root != repository.top else b""
    path = os.path.join(prefix, name)
    with tempfile.TemporaryDirectory(prefix=b"infbox-rules-") as folder:
        empty = empty_repository(folder, os.path.join(folder, b".git"), selector.settings(repository).ignore_case)
        extra = (*empty.extra, "core.excludesFile=/dev/null")
        tree = Repository(folder, empty.git_dir, empty.common_dir, found=False, extra=extra)
        for above in [b"", *reversed(list(_at_and_above(path)))]:
            copy = os.path.join(folder, above)
            if above == path and not is_folder:
                if not os.path.lexists(copy):
                    open(copy, "wb").close()
                continue
            os.makedirs(copy, exist_ok=True)
            rules = read_file(repository.top, os.path.join(above, b".infboxignore"), _MAX_RULES_BYTES)
            if isinstance(rules, bytes):
                with open(os.path.join(copy, b".gitignore"), "wb") as file:
                    file.write(rules)
        rule = gitfiles.ignoring_rule(tree, folder, path, selector.limits.git_seconds)
    return rule.replace(".gitignore:", ".infboxignore:", 1)


def _at_and_above(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]
