"""Mount units: their names, what they mount, and starting them. Their text stands in `roles/storage/templates`."""

import subprocess
from pathlib import Path

from infbox.errors import StorageError
from infbox.storage.decide import SCRATCH_LABEL
from infbox.storage.device import run

UDEV = Path("/run/udev/control")
PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")


def unit_name(path: str) -> str:
    """The mount unit of a path: systemd finds it by no other name."""
    return run(["systemd-escape", "--path", "--suffix=mount", path]).strip()


def what_to_mount(uuid: str) -> str:
    """`What=` of a file system. systemd waits for a disk by its link, which only udev makes (containers have none)."""
    return f"/dev/disk/by-uuid/{uuid}" if UDEV.exists() else f"UUID={uuid}"


def what_by_label() -> str:
    """`What=` of the scratch disks, whose UUID is another after each stop."""
    return f"/dev/disk/by-label/{SCRATCH_LABEL}" if UDEV.exists() else f"LABEL={SCRATCH_LABEL}"


def settle() -> None:
    """Wait until udev has made the links to a new file system."""
    if UDEV.exists():
        run(["udevadm", "settle", "--timeout=30"])


def mount(unit: str, dry_run: bool) -> bool:
    """Have the unit mounted, now and at each boot. Returns whether anything was (or would be) done.

    Raises:
        StorageError: it could not be mounted, with its journal.
    """
    state = _show(unit)
    fresh = state["NeedDaemonReload"] == "yes" or state["LoadState"] == "not-found"
    if fresh and not dry_run:
        run(["systemctl", "daemon-reload"])
        state = _show(unit)
    enabled, active = state["UnitFileState"] == "enabled", state["ActiveState"] == "active"
    if dry_run:
        return not (enabled and active)
    if not enabled:
        run(["systemctl", "enable", unit])
    if not active:
        try:
            run(["systemctl", "start", unit])
        except StorageError:
            said = subprocess.run(  # noqa: S603
                ["journalctl", "--unit", unit, "--lines=10", "--no-pager", "--output=cat"],  # noqa: S607
                capture_output=True,
                text=True,
            ).stdout.strip()
            raise StorageError(
                f"{unit} could not be mounted:\n\n{said}", f"journalctl -u {unit}; dmesg | tail"
            ) from None
    return not (enabled and active)


def _show(unit: str) -> dict[str, str]:
    out = run(["systemctl", "show", unit, *(f"--property={name}" for name in PROPERTIES)])
    return {name: value for name, _, value in (line.partition("=") for line in out.splitlines())}
