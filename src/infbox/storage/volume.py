"""The data volume.

Its file system is XFS: made for a few files of many gigabytes, read by many at once; it grows while it is mounted, and
its mkfs refuses by itself what another file system lies on.
"""

import re
import uuid
from dataclasses import dataclass

from infbox.errors import StorageError
from infbox.storage.decide import DATA_LABEL, Begun, check_path, must_format_data
from infbox.storage.device import Device, read_device, read_mounts, run
from infbox.storage.mounts import settle, what_to_mount
from infbox.storage.record import read_begun, remove_begun, write_begun

PATH_VARIABLE = "storage_data_path"
MIN_GROUP_BLOCKS = 64


@dataclass(frozen=True)
class Look:
    """The data volume, and whether it is to be formatted."""

    device: Device
    must_format: bool


def look(name: str, path: str) -> Look:
    """Look at the data volume, and change nothing.

    Raises:
        StorageError: it must not be formatted, or cannot be mounted at `path`.
    """
    device = read_device(name)
    must_format = must_format_data(device, path, read_begun("data"))
    check_path(PATH_VARIABLE, path, read_mounts(), (device.path, device.name))
    return Look(device, must_format)


def prepare(name: str, path: str, dry_run: bool) -> tuple[bool, str]:
    """Format the volume if nothing is on it. Returns whether it was (or would be), and what to mount."""
    seen = look(name, path)
    if not seen.must_format:
        return False, what_to_mount(seen.device.signatures[0].uuid)
    new = str(uuid.uuid4())
    if not dry_run:
        begun = Begun((seen.device.identity,), new)
        write_begun("data", begun)
        if seen.device.signatures:  # what we had begun
            run(["wipefs", "--all", seen.device.path])
        run(["mkfs.xfs", "-q", "-L", DATA_LABEL, "-m", f"uuid={new}", seen.device.path])
        settle()
        remove_begun("data")
    return True, what_to_mount(new)


def grow(name: str, path: str, dry_run: bool) -> bool:
    """Make the file system as large as its volume, mounted as it is. Returns whether it grew (or would)."""
    if not must_grow(run(["xfs_info", path]), read_device(name).size_bytes):
        return False
    if not dry_run:
        run(["xfs_growfs", "-d", path])
    return True


def must_grow(info: str, device_bytes: int) -> bool:
    """Whether there is room to grow into; `info` is what `xfs_info` says.

    A remainder of less than the smallest allocation group (XFS_MIN_AG_BLOCKS in the kernel) is left unused.
    """
    found = re.search(r"^data\s+=\s+bsize=(\d+)\s+blocks=(\d+),", info, re.MULTILINE)
    if not found:
        raise StorageError("xfs_info did not say how large the file system is", "is it mounted? findmnt -t xfs")
    return device_bytes // int(found[1]) - int(found[2]) >= MIN_GROUP_BLOCKS
