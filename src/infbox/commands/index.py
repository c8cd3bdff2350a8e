"""`infbox index`: what of a workspace the box's models know. What belongs to it is said by `infbox.pack.select`; what
the watcher has of it now, by `infbox.commands.index_live`.

An action is a function `_NAME` and a line of `register`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from infbox.commands import index_live
from infbox.errors import WorkspaceError
from infbox.pack.reading import printable
from infbox.pack.repository import find_repository
from infbox.pack.select import Limits, Selector


def register(commands: Any) -> None:
    """Add `index` and its subcommands to the parser."""
    index = commands.add_parser("index", help="say what of a workspace models know, and why not the rest")
    actions = index.add_subparsers(title="actions", metavar="ACTION", required=True)

    files = _action(actions, "files", "list the files that belong to a workspace", _files)
    files.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="default: this one")
    files.add_argument("-z", action="store_true", dest="null", help="end names with NUL, and write them as they are")
    _limit(files)

    explain = _action(actions, "explain", "say why paths belong to a workspace or do not, and by which rule", _explain)
    explain.add_argument("paths", metavar="PATH", nargs="+", help="files or folders")
    explain.add_argument("--workspace", metavar="FOLDER", type=Path, help="default: the repository, or this folder")
    _limit(explain)

    index_live.register(actions)


def _action(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    parser.set_defaults(run=run)
    return parser


def _limit(parser: argparse.ArgumentParser) -> None:
    about = "larger files are left out (default: %(default)s)"
    parser.add_argument("--max-file-bytes", metavar="N", type=_positive, default=Limits().max_file_bytes, help=about)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not (number := int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes above 0")
    return number


def _files(options: argparse.Namespace) -> None:
    selector = Selector(options.folder, Limits(max_file_bytes=options.max_file_bytes))
    left_out = 0
    for path in selector.listing().files:
        if isinstance(selector.read(path), bytes):
            name = os.fsencode(path)
            sys.stdout.buffer.write(name + b"\0" if options.null else printable(name).encode() + b"\n")
        else:
            left_out += 1
    sys.stdout.flush()
    if left_out:
        print(f"note: {left_out:,} more are left out; each says why: infbox index explain PATH", file=sys.stderr)


def _explain(options: argparse.Namespace) -> None:
    limits = Limits(max_file_bytes=options.max_file_bytes)
    selectors: dict[str, Selector] = {}
    for path in options.paths:
        if "\0" in path or not path:
            raise WorkspaceError(f"{path!r} names no file.", "give the path of a file or a folder.")
        root = str(options.workspace) if options.workspace else _workspace_of(path)
        selector = selectors.get(root) or selectors.setdefault(root, Selector(Path(root), limits))
        why = selector.explain(_inside(path, selector.root))
        print(f"{printable(os.fsencode(path))}: {why or 'taken'}")


def _inside(path: str, root: bytes) -> str:
    """A path relative to a workspace; links above the workspace are resolved, those in it are for `explain` to name."""
    place = Path(os.path.abspath(path))
    for above in reversed([place, *place.parents]):
        if os.path.realpath(os.fsencode(above)) == root:
            return "" if above == place else str(place.relative_to(above))
    return os.path.relpath(place, os.fsdecode(root))


def _workspace_of(path: str) -> str:
    """The repository around this folder if the path is in it, else the one around the path; else a plain folder."""
    here, place = Path.cwd(), Path(os.path.abspath(path))
    around = _repository_around(here)
    if around and place.is_relative_to(around):
        return str(around)
    return str(_repository_around(place.parent) or (here if place.is_relative_to(here) else place.parent))


def _repository_around(folder: Path) -> Path | None:
    place = next(each for each in (folder, *folder.parents) if each.is_dir())
    found = find_repository(os.path.realpath(os.fsencode(place)))
    return Path(os.fsdecode(found.top)) if found else None
