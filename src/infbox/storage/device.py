"""What a block device holds, by whom it is used, and where: read from the kernel and from `wipefs`, never written."""

import errno
import json
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from infbox.errors import StorageError

SYSFS = Path("/sys")
MOUNTINFO = Path("/proc/self/mountinfo")
# A device without a signature is taken for empty if as much as this at its beginning is zero.
HEAD_BYTES = 2**20


@dataclass(frozen=True)
class Signature:
    """What identifies a file system, a partition table, a member of LVM or RAID …, in wipefs' words."""

    type: str
    label: str = ""
    uuid: str = ""

    def __str__(self) -> str:
        return f"{self.type} ({self.label})" if self.label else self.type


@dataclass(frozen=True)
class Mount:
    """One line of the table of mounts; `device` is MAJOR:MINOR, `source` is what was mounted."""

    device: str
    where: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """A block device. `name` is what it was called, `path` its real path, `identity` what stays when that changes."""

    name: str
    path: str
    identity: str
    size_bytes: int
    signatures: tuple[Signature, ...] = ()
    parts: tuple[str, ...] = ()  # its partitions, and what is built on it (LVM, RAID)
    mounted_at: tuple[str, ...] = ()
    busy: bool = False  # mounted or otherwise held, if only in another container
    zeroed: bool = True  # its first HEAD_BYTES


def run(command: Sequence[str]) -> str:
    """Run a program and return its standard output.

    Raises:
        StorageError: it is missing or failed, with what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
    except FileNotFoundError:
        raise StorageError(f"the program `{command[0]}` is missing", "converge the box: --tags storage") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise StorageError(f"`{' '.join(command)}` failed with status {done.returncode}: {said}")
    return done.stdout


def read_device(name: str) -> Device:
    """Everything about the device called `name`.

    Raises:
        StorageError: it is not there, is no block device, or cannot be read.
    """
    path = os.path.realpath(name)
    try:
        status = os.stat(path)
    except OSError as fault:
        raise StorageError(
            f"the device {name} is not there ({fault.strerror})",
            "is the volume attached? What there is: lsblk -o NAME,SIZE,FSTYPE,LABEL,MOUNTPOINTS; ls -l /dev/disk/by-id",
        ) from None
    if not stat.S_ISBLK(status.st_mode):
        raise StorageError(f"{name} is not a block device", "what there is: lsblk -o NAME,SIZE,FSTYPE,MOUNTPOINTS")
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    node = SYSFS / "dev/block" / number
    size, zeroed = read_content(path)
    return Device(
        name=name,
        path=path,
        identity=_text(node / "device/serial") or _text(node / "serial") or path,
        size_bytes=size,
        signatures=parse_signatures(run(["wipefs", "--json", "--no-act", path])),
        parts=_parts(node),
        mounted_at=tuple(each.where for each in read_mounts() if number == each.device or path == each.source),
        busy=is_busy(path),
        zeroed=zeroed,
    )


def read_content(path: str) -> tuple[int, bool]:
    """The size of a device in bytes, and whether its beginning is all zeros."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
    except OSError as fault:
        raise StorageError(f"the device {path} cannot be read: {fault.strerror}", "look at it: dmesg | tail") from None
    if not size:
        raise StorageError(f"the device {path} has no bytes: nothing is behind it", "is the volume attached? lsblk")
    return size, not any(head)


def is_busy(path: str) -> bool:
    """Whether somebody holds the device: a mount, swap, LVM or RAID, in this container or any other."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError as fault:
        return fault.errno == errno.EBUSY
    return False


def parse_signatures(text: str) -> tuple[Signature, ...]:
    """What `wipefs --json` found."""
    found = cast("dict[str, list[dict[str, str | None]]]", json.loads(text or "{}")).get("signatures", [])
    return tuple(
        Signature(each.get("type") or "unknown", each.get("label") or "", each.get("uuid") or "") for each in found
    )


def read_mounts(table: Path | None = None) -> list[Mount]:
    """The mounts of this process's namespace; see proc_pid_mountinfo(5)."""
    mounts: list[Mount] = []
    for line in (table or MOUNTINFO).read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        mounts.append(Mount(fields[2], _unescaped(fields[4]), _unescaped(after.split()[1])))
    return mounts


def _unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _parts(node: Path) -> tuple[str, ...]:
    partitions = sorted(each.parent.name for each in node.glob("*/partition"))
    holders = node / "holders"
    return (*partitions, *(sorted(os.listdir(holders)) if holders.is_dir() else ()))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
