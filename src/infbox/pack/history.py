"""When each file of a repository last changed, in one pass of `git log`.

The answer is a position in the first-parent history, not a time: clocks and time zones have no say, and a merge counts
when it came in. A file that was renamed without a change is as old as it was under its old name.
"""

import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from infbox.errors import InfboxError

# Nothing of a person's git configuration may change what is answered.
_GIT = ("git", "--no-pager", "--no-replace-objects", "-c", "log.showRoot=true", "-c", "log.showSignature=false")
_LOG = ("log", "--first-parent", "--diff-merges=first-parent", "--format=tformat:%x00%H", "--raw", "--no-abbrev", "-z")
_PLAIN = ("--no-ext-diff", "--no-textconv", "--find-renames=100%", "--no-color", "--no-relative", "--no-notes")
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")


class HistoryError(InfboxError):
    """A repository's history cannot be read."""


def last_changes(repository: Path, paths: Collection[str], revision: str = "HEAD") -> dict[str, int]:
    """How many first-parent commits ago each of `paths` last changed, 0 for the newest commit.

    Args:
        repository: a git work tree's top or a bare repository.
        paths: as in the work tree at `revision`, relative to its top; reading stops when all are found.

    Returns:
        the ages of the paths that the history knows; a file that git does not know is not in it. Empty without commits.

    Raises:
        HistoryError: git is not there, or the folder is no repository.
    """
    command = [*_GIT, "-C", str(repository), *_LOG, *_PLAIN, revision, "--"]
    ages: dict[str, int] = {}
    # What a path of an older commit is called now; a path that is not in it has kept its name.
    names: dict[str, str] = {}
    wanted = set(paths)
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and paths are not in it
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
        )
    except OSError as fault:
        raise HistoryError(f"git cannot be run: {fault}", "install git: apt-get install git") from None
    with process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        age = -1
        for record in _records(process.stdout.fileno()):
            if len(record) == 1:
                age += 1
                if len(ages) == len(wanted):
                    process.terminate()
                    return ages
                continue
            status, *changed = record
            now = names.get(changed[-1], changed[-1])
            if now not in wanted or now in ages:
                continue
            if status.startswith("R") and changed[0] not in wanted:
                names[changed[0]] = now
            else:
                ages[now] = age
        said = process.stderr.read().decode(errors="replace").strip()
    unborn = revision == "HEAD" and ("bad revision 'HEAD'" in said or "does not have any commits" in said)
    if process.returncode and not unborn:
        raise HistoryError(f"git cannot read the history of {repository}: {said}", "look at it with `git log`")
    return ages


def oldest_first(paths: Collection[str], ages: dict[str, int]) -> list[str]:
    """The order of a base: what changed longest ago in front, files without history last, ties by the path's bytes."""
    return sorted(paths, key=lambda path: (-ages.get(path, -1), path_bytes(path)))


def path_bytes(path: str) -> bytes:
    """A path as the file system knows it: what every order is by, whatever the locale."""
    return path.encode(errors="surrogateescape")


def _records(stream: int) -> Iterator[list[str]]:
    """Commits as [hash], changes as [status, path] or [status, old path, new path]."""
    fields = _fields(stream)
    for field in fields:
        head = field.strip().decode()
        if head.startswith(":"):
            status = head.rsplit(" ", 1)[1]
            count = 2 if status[0] in "RC" else 1
            yield [status, *(os.fsdecode(next(fields)) for _ in range(count))]
        elif head:
            yield [head]


def _fields(stream: int) -> Iterator[bytes]:
    """What stands between NULs."""
    rest = b""
    while block := os.read(stream, 65_536):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _environment() -> dict[str, str]:
    """Without what makes git look elsewhere: a hook's environment says GIT_DIR."""
    return {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | {"LC_ALL": "C"}
