"""`infbox storage`: the box's disks, for the role `storage` and the unit that makes the scratch disks anew at boot."""

import argparse
import json
import os
from typing import Any

from infbox.errors import StorageError
from infbox.storage import mounts, scratch, volume


def register(commands: Any) -> None:
    """Add `storage` and its actions to the parser."""
    storage = commands.add_parser("storage", help="format, mount and grow the box's disks")
    actions = storage.add_subparsers(title="actions", metavar="ACTION", required=True)

    look = _action(actions, "look", "say what would be done, or why it must not be", _look)
    _data(look)
    _scratch(look)

    data = _action(actions, "data", "format the data volume if nothing is on it", _prepare_data)
    _data(data)

    grow = _action(actions, "grow", "make the data volume's file system as large as the volume", _grow)
    _data(grow)

    mount = _action(actions, "mount", "have a mount unit mounted, now and at each boot", _mount)
    mount.add_argument("unit", metavar="UNIT", help="as in var-lib-infbox.mount")

    scratch_ = _action(actions, "scratch", "make the scratch disks' file system where it is missing", _prepare_scratch)
    _scratch(scratch_)


def _action(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.set_defaults(run=run)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="", help="the data volume; none if empty")
    parser.add_argument("--path", metavar="FOLDER", required=True, help="where it is mounted")


def _scratch(parser: argparse.ArgumentParser) -> None:
    names = os.environ.get("STORAGE_SCRATCH_DEVICES", scratch.AUTO)
    path = os.environ.get("STORAGE_SCRATCH_PATH")
    parser.add_argument("--scratch-devices", metavar="DEVICES", default=names, help="by commas; auto: instance store")
    parser.add_argument(
        "--scratch-path", metavar="FOLDER", default=path, required=path is None, help="where they are mounted"
    )


def _names(options: argparse.Namespace) -> list[str]:
    return [name for name in options.scratch_devices.split(",") if name]


def _look(options: argparse.Namespace) -> None:
    packages: list[str] = []
    if options.device:
        volume.look(options.device, options.path)
        packages.append("xfsprogs")
    disks, _ = scratch.look(_names(options), options.scratch_path)
    if disks:
        packages.append("btrfs-progs")
    _say(
        changed=False,
        packages=packages,
        data_unit=mounts.unit_name(options.path),
        scratch_unit=mounts.unit_name(options.scratch_path),
        scratch_disks=[disk.path for disk in disks],
        scratch_what=mounts.what_by_label(),
    )


def _prepare_data(options: argparse.Namespace) -> None:
    changed, what = volume.prepare(options.device, options.path, options.dry_run)
    _say(changed=changed, what=what)


def _grow(options: argparse.Namespace) -> None:
    _say(changed=volume.grow(options.device, options.path, options.dry_run))


def _mount(options: argparse.Namespace) -> None:
    _say(changed=mounts.mount(options.unit, options.dry_run))


def _prepare_scratch(options: argparse.Namespace) -> None:
    disks, changed = scratch.prepare(_names(options), options.scratch_path, options.dry_run)
    if not disks:
        raise StorageError(
            "there is no scratch disk", "`storage_scratch_devices` names them; auto: an instance store's"
        )
    _say(changed=changed, disks=disks)


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)
