"""Disks for a test host: loop devices of this machine, each with a file behind it."""

import os
import subprocess
from pathlib import Path

MIB = 2**20


def why_no_loop_devices() -> str:
    """Why this machine cannot make one; empty if it can."""
    if os.geteuid() != 0:
        return "loop devices need root"
    done = subprocess.run(["losetup", "--find"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"this machine has no free loop device: {done.stderr.strip()}"


class Disk:
    """A loop device, and what can happen to a disk."""

    def __init__(self, file: Path, mib: int) -> None:
        self.file = file
        self.blank(mib)
        self.path = self._losetup("--find", "--show", str(file))

    def blank(self, mib: int) -> None:
        """Have nothing on it."""
        self.file.unlink(missing_ok=True)
        self.resize(mib)

    def resize(self, mib: int) -> None:
        """Change the file's size; a loop device that is attached sees it after `announce`."""
        with self.file.open("ab") as file:
            file.truncate(mib * MIB)

    def announce(self) -> None:
        """Have the kernel see the new size, as it does by itself with a volume of a cloud."""
        self._losetup("--set-capacity", self.path)

    def attach(self) -> None:
        self._losetup(self.path, str(self.file))

    def detach(self, missing_ok: bool = False) -> None:
        try:
            self._losetup("--detach", self.path)
        except subprocess.CalledProcessError:
            if not missing_ok:
                raise

    @staticmethod
    def _losetup(*arguments: str) -> str:
        return subprocess.run(["losetup", *arguments], check=True, capture_output=True, text=True).stdout.strip()
