"""What may be done with a device: formatted only if nothing lies on it, or what we ourselves had begun to make there.

Pure: what a device holds is `infbox.storage.device`'s to read. A file system is ours by its label. One that was being
made when the machine stopped is known by the record written before (`Begun`): it was never mounted, so nothing is lost
when it is made again.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infbox.errors import StorageError
from infbox.storage.device import Device, Mount, Signature

DATA_LABEL = "infbox-data"
SCRATCH_LABEL = "infbox-scratch"


@dataclass(frozen=True)
class Begun:
    """A formatting that began, and did not end: the devices by their identities, and the new file system's UUID."""

    devices: tuple[str, ...]
    uuid: str


def must_format_data(device: Device, path: str, begun: Begun | None) -> bool:
    """Whether the data volume is to be formatted; if not, it holds our file system.

    Raises:
        StorageError: it holds something else, or is used elsewhere.
    """
    check_use(device, path)
    if _is_half_made(device, begun) or is_empty(device, begun):
        return True
    if [(each.type, each.label) for each in device.signatures] == [("xfs", DATA_LABEL)]:
        return False
    raise foreign(device, adopt=_is(device, "xfs"))


def must_format_scratch(devices: Sequence[Device], path: str, total_devices: int, begun: Begun | None) -> bool:
    """Whether the scratch disks get a new file system; if not, they hold ours, whole.

    `total_devices` is how many disks that file system says it is on (0 where there is none). Its data may go at any
    time, so it is also made anew where one of its disks is gone.

    Raises:
        StorageError: one of them holds something else, or is used elsewhere.
    """
    mounted = {each.uuid for device in devices if path in device.mounted_at for each in device.signatures}
    ours: list[Signature] = []
    for device in devices:
        # Of a file system on several disks, the table of mounts names one.
        if not mounted & {each.uuid for each in device.signatures}:
            check_use(device, path)
        if is_empty(device, begun):
            continue
        if [(each.type, each.label) for each in device.signatures] != [("btrfs", SCRATCH_LABEL)]:
            raise foreign(device)
        ours.append(device.signatures[0])
    if mounted or not devices:
        return False
    whole = len(ours) == len(devices) == total_devices and len({each.uuid for each in ours}) == 1
    return not whole or any(_is_half_made(device, begun) for device in devices)


def check_use(device: Device, path: str) -> None:
    """Refuse a device that is divided, or used by somebody else.

    Raises:
        StorageError: with what holds it.
    """
    if device.parts:
        raise StorageError(
            f"{device.name} is divided or built upon: {', '.join(device.parts)}",
            f"name a partition or another device; look at it: lsblk -f {device.path}; "
            f"if nothing on it is needed: {wipe(device)}",
        )
    elsewhere = [where for where in device.mounted_at if where != path]
    if elsewhere:
        raise StorageError(
            f"{device.name} is mounted at {elsewhere[0]}, and is to be at {path}",
            f"umount {elsewhere[0]}, and take it out of /etc/fstab or disable its mount unit; or name another device",
        )
    if device.busy and not device.mounted_at:
        raise StorageError(
            f"{device.name} is in use: mounted in a container, or held by swap, LVM or RAID",
            f"look for who holds it: lsblk -f {device.path}; swapon; grep {device.path} /proc/*/mountinfo",
        )


def is_empty(device: Device, begun: Begun | None) -> bool:
    """Whether nothing is on the device. Beginnings of our own do not count."""
    return not device.signatures and (device.zeroed or _is_begun(device, begun))


def foreign(device: Device, adopt: bool = False) -> StorageError:
    """The refusal of a device with somebody's data."""
    what = ", ".join(map(str, device.signatures)) or "data of a kind that nobody knows"
    keep = f"to keep what is on it: xfs_admin -L {DATA_LABEL} {device.path}; " if adopt else ""
    return StorageError(
        f"{device.name} holds {what}, and is not formatted",
        f"{keep}look at it: wipefs {device.path}; lsblk -f {device.path}; if nothing on it is needed: {wipe(device)}",
    )


def wipe(device: Device) -> str:
    """The commands that make a device empty, deliberately."""
    return f"wipefs --all {device.path} && dd if=/dev/zero of={device.path} bs=1M count=1"


def check_path(variable: str, path: str, mounts: Sequence[Mount], device_paths: Sequence[str]) -> bool:
    """Whether one of the devices is mounted at `path` already; if not, whether it can be.

    Raises:
        StorageError: `path` is no place for a mount, something else is mounted there, or it holds files.
    """
    here = [each for each in mounts if each.where == path]
    if here and here[-1].source in device_paths:
        return True
    where = Path(path)
    if not re.fullmatch(r"(/(?!\.\.?(/|$))[^/]+)+", path):
        raise StorageError(f"`{variable}` is {path!r}, where nothing can be mounted", "set it to an absolute path")
    if here:
        raise StorageError(
            f"`{variable}` is {path}, where {here[-1].source} is mounted",
            f"umount {path}, and take it out of /etc/fstab or disable its mount unit; or set another `{variable}`",
        )
    if str(where.resolve()) != path:
        raise StorageError(
            f"`{variable}` is {path}, which leads over a symbolic link to {where.resolve()}", "set it to that path"
        )
    if where.exists() and not where.is_dir():
        raise StorageError(f"`{variable}` is {path}, which is a file", "set it to another path")
    if (first := first_file(where)) is not None:
        raise StorageError(
            f"`{variable}` is {path}, and what lies there already, as {first}, would be hidden by the mount",
            f"put it aside: systemctl stop 'infbox-*'; mv {path} {path}.before; run it again; "
            f"then move what is needed from there to {path}, or remove it",
        )
    return False


def first_file(folder: Path) -> Path | None:
    """Anything below a folder that is no folder itself."""
    return next((Path(above) / names[0] for above, _, names in os.walk(folder) if names), None)


def _is(device: Device, kind: str) -> bool:
    return [each.type for each in device.signatures] == [kind]


def _is_begun(device: Device, begun: Begun | None) -> bool:
    return begun is not None and device.identity in begun.devices


def _is_half_made(device: Device, begun: Begun | None) -> bool:
    if begun is None or not _is_begun(device, begun) or device.mounted_at:
        return False
    return bool(device.signatures) and all(each.uuid == begun.uuid for each in device.signatures)
