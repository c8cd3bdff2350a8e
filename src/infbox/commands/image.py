"""`infbox image`: the engine's container image, and services in it. Units and role `vllm` run it, as root."""

import argparse
import grp
import os
from pathlib import Path
from typing import Any

from infbox.errors import ImageError
from infbox.image.fetch import Records, Settings, fetch, mark_good, roll_back
from infbox.image.reference import Reference
from infbox.image.store import Podman


def register(commands: Any) -> None:
    """Add `image` and its actions."""
    image = commands.add_parser("image", help="fetch the engine's container image, and run services in it")
    actions = image.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, summary, run in (
        ("fetch", "have the image of IMAGE_REFERENCE here, from its registry or from IMAGE_ARCHIVE", _fetch),
        ("show", "say which image services run in, and which one last worked", _show),
        ("good", "remember that the box answers with the current one", _good),
        ("rollback", "go back to the one that last worked", _roll_back),
    ):
        actions.add_parser(name, help=summary).set_defaults(run=run)
    run = actions.add_parser("run", help="become a service's program in the image; for its unit")
    run.add_argument("--name", required=True, help="the unit's, without .service")
    run.add_argument("--user", required=True, help="whose rights the program has")
    run.add_argument("--group", action="append", default=[], help="a group that it is in besides")
    run.add_argument("--read", metavar="PATH", action="append", default=[], type=Path, help="what it sees of the box")
    run.add_argument("--write", metavar="PATH", action="append", default=[], type=Path, help="and what it may change")
    run.add_argument("--shared-memory", metavar="FOLDER", type=Path, help="its /dev/shm (default: the box's)")
    run.add_argument("--gpus", metavar="SECONDS", type=float, help="it has the GPUs; how long to wait for them")
    run.add_argument("command", nargs="+", help="the program, after --")
    run.set_defaults(run=_run)


def _say(text: str) -> None:
    print(text, flush=True)


def _fetch(_: argparse.Namespace) -> None:
    fetch(Settings.read(os.environ), Podman(say=_say), Records())


def _show(_: argparse.Namespace) -> None:
    records = Records()
    for name in ("current", "good"):
        _say(f"{name:<8} {records.read(name) or 'none'}")


def _good(_: argparse.Namespace) -> None:
    records = Records()
    if mark_good(Podman(say=_say), records):
        _say(f"from now on the image to go back to: {records.read('good')}")


def _roll_back(_: argparse.Namespace) -> None:
    records = Records()
    if good := roll_back(records):
        _say(f"services run in {good} again, which worked before")
    elif records.read("good"):
        _say("the image is the one that worked before, so none is gone back to")
    else:
        _say("no image has worked here before, so none is gone back to")


def _run(options: argparse.Namespace) -> None:
    from infbox.image import run

    current = Records().read("current")
    if not current:
        raise ImageError("no image was fetched", "`systemctl start infbox-image`; its journal says why it failed")
    image = Podman(say=_say).find(Reference.parse(current).digest)
    if image is None:
        raise ImageError(f"{current} is not on this box any more", "`systemctl restart infbox-image` fetches it again")
    if options.gpus is not None:
        run.wait_for_gpus(options.gpus, say=_say)
    program = run.Program(
        name=options.name,
        user=options.user,
        command=tuple(options.command),
        read=tuple(options.read),
        write=tuple(options.write),
        shared_memory=options.shared_memory,
        groups=tuple(_gid(name) for name in options.group),
        gpus=options.gpus is not None,
        environment=dict(os.environ),
    )
    run.become(program, image)


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ImageError(f"there is no group {name}", "run role base") from None
