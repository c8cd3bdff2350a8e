"""Asks git about a workspace that may be anybody's, without letting that workspace decide what is run.

A repository's own configuration can name programs (hooks, filters, fsmonitor, transports for objects that are missing)
and another working tree. So git is told here which repository and which tree, in an environment without anything of
git's, with every such program turned off. That also answers "dubious ownership": nothing of the owner's is run.

Rules are never read here, and not by pathspec either, which answers differently from git for some patterns: what git
says is what holds. Which repository is asked: repository.py.

    listed           what git tracks, and what it would take
    ignored          which of some paths a kind of ignore file ignores: one call for all
    ignoring_rule    the line that does
    settings         case rules, object format, and the files that say so
"""

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from infbox.errors import WorkspaceError
from infbox.pack.repository import Repository

DEFAULT_SECONDS = 120.0  # 100,000 files take less than one; a FIFO named .gitignore would hold git for good
_INHERITED = ("PATH", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
_RUN_NOTHING = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "core.pager=cat",
    "protocol.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
)
STANDARD = "--exclude-standard"  # .gitignore, .git/info/exclude, core.excludesFile


@dataclass(frozen=True)
class Settings:
    """What configuration says that the answers depend on.

    Attributes:
        ignore_case: core.ignorecase.
        object_bytes: the length of an object's name: 20 for SHA-1, 32 for SHA-256.
        files: the files of configuration that git read, absolute.
    """

    ignore_case: bool
    object_bytes: int
    files: frozenset[bytes]


@dataclass
class Listed:
    """What git lists below a folder, relative to it; every path once.

    Attributes:
        tracked: in the index, whether it is there or not; gitlinks are not among them.
        gitlinks: submodules.
        others: untracked and not ignored; a repository inside ends in a slash.
    """

    tracked: set[bytes] = field(default_factory=set[bytes])
    gitlinks: set[bytes] = field(default_factory=set[bytes])
    others: set[bytes] = field(default_factory=set[bytes])


def listed(repository: Repository, root: bytes, seconds: float, cached_only: bool = False) -> Listed:
    """What git tracks below `root`, and unless `cached_only` what it would take."""
    which = ("--cached",) if cached_only else ("--cached", "--others", STANDARD)
    found = Listed()
    for entry in run(repository, root, "ls-files", "-z", "-t", "--stage", *which, seconds=seconds).split(b"\0"):
        if entry.startswith(b"? "):
            found.others.add(entry[2:])
        elif entry:
            mode, _, path = entry[2:].partition(b"\t")
            (found.gitlinks if mode.startswith(b"160000") else found.tracked).add(path)
    return found


def ignored(
    repository: Repository,
    root: bytes,
    paths: Mapping[bytes, bool],
    object_bytes: int,
    seconds: float,
    rules: str = STANDARD,
) -> set[bytes]:
    """Which paths are ignored, or lie in a folder that is, whether tracked or not; one call for all of them.

    `git ls-files --cached --ignored` says it of an index, so it is given one in memory that has these paths. Folders
    stand in it as gitlinks, which git matches as the folders they are.

    Args:
        repository: whose rules.
        root: what the paths are relative to.
        paths: with whether each is a folder.
        object_bytes: `Settings.object_bytes`.
        seconds: how long git may take.
        rules: `STANDARD`, or `--exclude-per-directory=NAME`.
    """
    if not paths:
        return set()
    prefix = b"" if root == repository.top else os.path.relpath(root, repository.top) + b"/"
    content = _index({prefix + path: folder for path, folder in paths.items()}, object_bytes)
    memory = os.memfd_create("infbox-index", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(content)
        command = ("ls-files", "-z", "--cached", "--ignored", rules)
        return set(run(repository, root, *command, seconds=seconds, index=memory).split(b"\0")) - {b""}
    finally:
        os.close(memory)


def _index(paths: Mapping[bytes, bool], object_bytes: int) -> bytes:
    """An index, version 2, as git's `index-format` describes it; True stands for a gitlink, False for a file."""
    parts = [b"DIRC" + struct.pack(">II", 2, len(paths))]
    heads = [struct.pack(">10I", *[0] * 6, mode, 0, 0, 0) + b"\1" * object_bytes for mode in (0o100644, 0o160000)]
    for path in sorted(paths):
        entry = heads[paths[path]] + struct.pack(">H", min(len(path), 0xFFF)) + path
        parts.append(entry + b"\0" * (8 - len(entry) % 8))
    content = b"".join(parts)
    digest = hashlib.sha1(content, usedforsecurity=False) if object_bytes == 20 else hashlib.sha256(content)
    return content + digest.digest()


def ignoring_rule(repository: Repository, root: bytes, path: bytes, seconds: float) -> str:
    """The line that ignores a path that is there, as `FILE:LINE:PATTERN`; "" if none does.

    FILE is relative to the working tree's top, where it is below, as git names it there.
    """
    command = ("check-ignore", "-z", "-v", "--no-index", "--stdin")
    answer = run(repository, root, *command, seconds=seconds, ask=b"./" + path + b"\0", none=1)
    if not answer:
        return ""
    source, line, pattern, _ = answer.split(b"\0")[:4]
    if pattern.startswith(b"!"):
        return ""
    return b":".join((source.removeprefix(repository.top + b"/"), line, pattern)).decode("utf-8", "backslashreplace")


def settings(repository: Repository, root: bytes, seconds: float) -> Settings:
    """What the configuration of the repository, of the person who runs this and of the machine says together."""
    said: dict[bytes, bytes | None] = {}
    files: set[bytes] = set()
    words = run(repository, root, "config", "-z", "--list", "--show-origin", seconds=seconds).split(b"\0")
    for origin, setting in zip(words[::2], words[1::2], strict=False):
        name, separator, value = setting.partition(b"\n")
        said[name.lower()] = value if separator else None
        if origin.startswith(b"file:"):
            files.add(os.path.normpath(os.path.join(root, origin.removeprefix(b"file:"))))
    ignore_case = said.get(b"core.ignorecase", b"false")
    return Settings(
        ignore_case=ignore_case is None or ignore_case.lower() not in (b"", b"false", b"no", b"off", b"0"),
        object_bytes=32 if said.get(b"extensions.objectformat") == b"sha256" else 20,
        files=frozenset(files),
    )


def excludes_file(repository: Repository, root: bytes, seconds: float) -> bytes | None:
    """The global ignore file of whoever runs this: core.excludesFile, or git's usual place; None without a home."""
    command = ("config", "-z", "--type=path", "--get", "core.excludesFile")
    if said := run(repository, root, *command, seconds=seconds, none=1).removesuffix(b"\0"):
        return os.path.join(repository.top, said)
    folder = _own_configuration()
    return folder + b"/git/ignore" if folder else None


def configuration_places() -> Iterable[bytes]:
    """Where git looks for the configuration of whoever runs this, whether it is there or not."""
    if said := os.environb.get(b"GIT_CONFIG_GLOBAL"):
        return (said,)
    folder, home = _own_configuration(), os.environb.get(b"HOME")
    return tuple(
        place for place in (home and home + b"/.gitconfig", folder and folder + b"/git/config") if place is not None
    )


def _own_configuration() -> bytes | None:
    if configuration := os.environb.get(b"XDG_CONFIG_HOME"):
        return configuration
    home = os.environb.get(b"HOME")
    return home + b"/.config" if home else None


def run(
    repository: Repository,
    folder: bytes,
    *arguments: str,
    seconds: float,
    ask: bytes = b"",
    none: int = 0,
    index: int | None = None,
) -> bytes:
    """What a git command printed.

    Args:
        repository: which one.
        folder: where it is run.
        arguments: the command.
        seconds: how long it may take.
        ask: its standard input.
        none: a status that means: there is nothing to print.
        index: a file descriptor of an index to take for the repository's.

    Raises:
        WorkspaceError: there is no git, it took too long, or it failed, in its own words.
    """
    switched = [word for setting in (*_RUN_NOTHING, *repository.extra) for word in ("-c", setting)]
    environment: dict[str, str | bytes] = {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "LC_ALL": "C",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_DIR": repository.git_dir,
        "GIT_WORK_TREE": repository.top,
    }
    if index is not None:
        environment["GIT_INDEX_FILE"] = f"/proc/self/fd/{index}"
    where = os.fsdecode(folder)
    try:
        done = subprocess.run(  # noqa: S603 (the words are fixed)
            ["git", *switched, *arguments],  # noqa: S607 (the administrator's git)
            cwd=folder,
            env=environment,
            input=ask,
            capture_output=True,
            timeout=seconds,
            check=False,
            pass_fds=() if index is None else (index,),
        )
    except OSError as fault:
        raise WorkspaceError(
            f"git cannot be asked about {where!r}: {fault}.", "install it: apt-get install git; or is the folder gone?"
        ) from None
    except subprocess.TimeoutExpired:
        raise WorkspaceError(
            f"`git {arguments[0]}` in {where!r} did not end within {seconds:g} seconds.",
            "look for a FIFO named .gitignore, or a file system that does not answer.",
        ) from None
    if done.returncode not in (0, none):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise WorkspaceError(
            f"`git {arguments[0]}` in {where!r} failed: {said[-1] if said else f'status {done.returncode}'}.",
            f"see for yourself: git -C {where!r} status",
        )
    return done.stdout
