"""`infbox index status` and `show`: what the watcher of this box has, asked over its socket."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

from infbox.engine_probe import Answer, Ask, ask_over
from infbox.errors import NotReadyError, WorkspaceError

DEFAULT_SOCKET = "/run/infbox-watcher/watcher.sock"
REFRESH_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
_BAR = 30


def register(actions: Any) -> None:
    """Add `status` and `show` to the actions of `index`."""
    status: argparse.ArgumentParser = actions.add_parser("status", help="say how fresh and how large each pack is")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--watch", action="store_true", help="print it again each second, until Ctrl-C")
    status.set_defaults(run=_status)
    show: argparse.ArgumentParser = actions.add_parser("show", help="print a pack as text: what the model reads")
    show.add_argument("workspace", metavar="WORKSPACE", nargs="?", help="TENANT/NAME or NAME; default: the only one")
    show.set_defaults(run=_show)
    for parser in (status, show):
        parser.add_argument("--socket", metavar="FILE", default=DEFAULT_SOCKET, help="default: %(default)s")


def _status(options: argparse.Namespace) -> None:
    while True:
        told = _told(options.socket)
        if options.json:
            print(json.dumps(told), flush=True)
        else:
            text = "\n\n".join(describe(each) for each in told["workspaces"]) or "the watcher has no workspaces"
            clear = "\x1b[H\x1b[J" if options.watch and sys.stdout.isatty() else ""
            print(clear + text, flush=True)
        if not options.watch:
            return
        time.sleep(REFRESH_SECONDS)


def describe(told: dict[str, Any]) -> str:
    """One workspace of the watcher's status, for people."""
    name = f"{told['tenant']}/{told['name']}"
    rows = [("state", told["state"]), ("folder", told["path"])]
    if told["error"]:
        rows.append(("error", told["error"].replace("\n\n", "\n").replace("\n", "\n" + " " * 22)))
    if told["state"] == "indexing":
        rows.append(("first index", progress(told["indexed"]["done"], told["indexed"]["of"])))
    rows.append(("files", f"{told['files']:,}, {told['files_in_pack']:,} of them for the pack"))
    rows += [("  left out", f"{count:,}: {reason}") for reason, count in told["excluded"].items()]
    rows += [("  unreadable", _printable(path)) for path in told["unreadable"]]
    sizes = f"{told['tokens']:,} = base {told['base_tokens']:,} + overlay {told['overlay_tokens']:,}"
    rows.append(("tokens", f"{sizes}, version {told['version']}"))
    rows.append(("last save", _times(told)))
    polled = f", {told['polled_folders']:,} folders polled" if told["polled_folders"] else ""
    rows.append(("watches", f"{told['watches']:,}{polled}"))
    rows += [
        ("warning", told[key].replace("\n\n", "\n" + " " * 22)) for key in ("watch_error", "state_error") if told[key]
    ]
    return "\n".join([name, *(f"  {title:<20}{value}" for title, value in rows)])


def progress(done: int, of: int) -> str:
    """A bar, and the numbers."""
    if not of:
        return "listing files"
    filled = _BAR * done // of
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {done:,} of {of:,} files"


def _times(told: dict[str, Any]) -> str:
    ago = told["last_save_seconds_ago"]
    if ago is None:
        return "none since the watcher began"
    said = f"{ago:,.0f} s ago"
    if told["visible_seconds"] is not None:
        said += f", visible after {told['visible_seconds'] * 1000:.0f} ms"
    if told["warm_seconds"] is not None:
        computing = f", {told['compute_seconds']:.2f} s of it to compute" if told["compute_seconds"] is not None else ""
        return said + f", warm after {told['warm_seconds']:.2f} s{computing}"
    return said + (", warm" if told["is_warm"] else ", not warm yet")


def _show(options: argparse.Namespace) -> None:
    told = _told(options.socket)
    listed = cast("list[dict[str, Any]]", told["workspaces"])
    names = [f"{each['tenant']}/{each['name']}" for each in listed]
    asked = options.workspace
    found = [name for name in names if asked in (None, name, name.partition("/")[2])]
    if len(found) != 1:
        what = f"{asked!r} names" if asked else "there are"
        many = "no workspace" if not found else f"{len(found)} workspaces"
        raise WorkspaceError(f"{what} {many}", f"give one of: {', '.join(names)}" if names else "the watcher has none")
    answer = _ask(options.socket, f"/workspaces/{found[0]}/pack")
    ids = memoryview(answer.body).cast("I").tolist() if sys.byteorder == "little" else _swapped(answer.body)
    from tokenizers import Tokenizer  # takes a while to load, and only this needs it

    place = Path(told["model"]) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(place))
    except Exception as fault:  # the library raises bare Exception
        raise WorkspaceError(f"{place} cannot be read: {fault}", "run it as root: sudo infbox index show") from None
    sys.stdout.write(tokenizer.decode(ids, skip_special_tokens=False))
    sys.stdout.flush()


def _swapped(body: bytes) -> list[int]:
    return [int.from_bytes(body[start : start + 4], "little") for start in range(0, len(body), 4)]


def _told(socket: str) -> dict[str, Any]:
    told = _ask(socket, "/status").json()
    if not isinstance(told, dict):
        raise NotReadyError(
            f"{socket} answered /status with something else", "is it infbox-watcher that listens there?"
        )
    return cast("dict[str, Any]", told)


def _ask(socket: str, path: str) -> Answer:
    try:
        answer = ask_over(socket, Ask("GET", path), TIMEOUT_SECONDS)
    except NotReadyError as fault:
        hint = "systemctl status infbox-watcher; its socket is for root and the gateway"
        raise NotReadyError(f"the watcher cannot be asked: {fault.message}", hint) from None
    if answer.status != 200:
        said = answer.json()
        fields = cast("dict[str, str]", said) if isinstance(said, dict) else {}
        raise NotReadyError(fields.get("error", f"{path} answered {answer.status}"), fields.get("hint", ""))
    return answer


def _printable(path: str) -> str:
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
