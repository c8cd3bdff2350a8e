"""Scratch disks: fast, lost at each stop of the machine, made again at each start by infbox-storage-scratch.service.

The file system is btrfs, striped over all of them. An array of mdadm or LVM below another file system would be a second
thing to assemble, with its own names and its own half-made states; here a disk says by one label whose it is, one
command makes the whole, and it is the same for one disk and for eight. Copy-on-write and checksums are off (see the
mount unit): what lies here can always be computed again.
"""

import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from infbox.errors import StorageError
from infbox.storage import device as devices
from infbox.storage.decide import SCRATCH_LABEL, Begun, check_path, must_format_scratch
from infbox.storage.device import Device, read_device, read_mounts, run
from infbox.storage.mounts import settle
from infbox.storage.record import read_begun, remove_begun, write_begun

AUTO = "auto"
INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"
PATH_VARIABLE = "storage_scratch_path"


def find(wanted: Sequence[str]) -> list[str]:
    """The scratch disks: those that are named, or for `auto` the instance store's, told by their model."""
    if list(wanted) != [AUTO]:
        return list(wanted)
    models = sorted((devices.SYSFS / "block").glob("nvme*/device/model"))
    return [f"/dev/{model.parent.parent.name}" for model in models if _text(model) == INSTANCE_STORE]


def look(wanted: Sequence[str], path: str) -> tuple[list[Device], bool]:
    """The scratch disks, and whether they are to be formatted; changes nothing.

    Raises:
        StorageError: one of them must not be formatted, or nothing can be mounted at `path`.
    """
    disks = [read_device(name) for name in find(wanted)]
    paths = [disk.path for disk in disks]
    if len(set(paths)) != len(paths):
        raise StorageError(f"`storage_scratch_devices` names a disk twice: {', '.join(paths)}", "name each once")
    try:
        must_format = must_format_scratch(disks, path, _total_devices(disks), read_begun("scratch"))
    except StorageError as fault:
        leave = "to leave it alone: `storage_scratch_devices: []`"
        raise StorageError(fault.message, f"{fault.hint}; {leave}") from None
    if disks:
        check_path(PATH_VARIABLE, path, read_mounts(), paths)
    return disks, must_format


def prepare(wanted: Sequence[str], path: str, dry_run: bool) -> tuple[list[str], bool]:
    """Make the file system where it is missing or not whole. Returns the disks, and whether it was (or would be)."""
    disks, must_format = look(wanted, path)
    paths = [disk.path for disk in disks]
    if must_format and not dry_run:
        begun = Begun(tuple(disk.identity for disk in disks), str(uuid.uuid4()))
        profile = "raid0" if len(disks) > 1 else "single"
        write_begun("scratch", begun)
        run(["mkfs.btrfs", "--quiet", "--force", "--data", profile, "--metadata", profile, "--label", SCRATCH_LABEL,
             "--uuid", begun.uuid, *paths])  # fmt: skip
        settle()
        remove_begun("scratch")
    if paths and not dry_run:
        run(["btrfs", "device", "scan", *paths])
    return paths, must_format


def total_devices(said: str) -> int:
    """How many devices a file system is on, by `btrfs filesystem show`; 0 if there is none."""
    found = re.search(r"Total devices (\d+)", said)
    return int(found[1]) if found else 0


def _total_devices(disks: Sequence[Device]) -> int:
    for disk in disks:
        if any(each.type == "btrfs" for each in disk.signatures):
            try:
                return total_devices(run(["btrfs", "filesystem", "show", disk.path]))
            except StorageError:
                return 0
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
