"""Disks on a real host: `pytest tests/storage`. They need root and loop devices, so they run only when asked for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, why_no_loop_devices

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "hosts"), str(ROOT / "tests" / "faults")]
import host as hosts  # noqa: E402 (found by the line above)
from faulty_box import FaultyBox  # noqa: E402

HERE = Path(__file__).parent
NAME = "infbox-storage"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in asked) else True


class StorageBox(FaultyBox):
    """A host with disks: one for data, two for scratch, and one to do things to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.first, self.second, self.other = (
            Disk(folder / name, mib) for name, mib in (("data", 320), ("first", 128), ("second", 128), ("other", 320))
        )
        self.start()

    @property
    def disks(self) -> list[Disk]:
        return [self.data, self.first, self.second, self.other]

    def start(self) -> None:
        """Start the host, made anew if it is not there."""
        control = ["/dev/btrfs-control"] if Path("/dev/btrfs-control").exists() else []
        devices = [disk.path for disk in self.disks] + control
        facts = hosts.up(NAME, str(hosts.os_release()["VERSION_CODENAME"]), self.folder, devices)
        super().__init__(hosts.ssh_command(facts), hosts.write_inventory(self.folder / "inventory.yml", facts, "cpu"))

    def stop(self) -> None:
        hosts.podman("stop", "--time=30", NAME)

    def throw_away(self) -> None:
        hosts.down(NAME)

    @property
    def variables(self) -> dict[str, object]:
        return {"storage_data_device": self.data.path,
                "storage_scratch_devices": [self.first.path, self.second.path]}  # fmt: skip

    def converge(self, *options: str, tags: str = "storage", **variables: object) -> subprocess.CompletedProcess[str]:
        return self.play(*options, tags=tags, **(self.variables | variables))

    def storage(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(f"/opt/infbox/venv/bin/infbox storage {command}", check)

    def wait_for(self, command: str) -> None:
        """Until a command succeeds."""
        self.run(f"timeout 30 sh -c 'until {command} >/dev/null; do sleep 0.2; done'")

    def refuses(self, device: str, path: str = "/srv/volume") -> str:
        """What is said of a device that must not be formatted."""
        done = self.storage(f"data --device {device} --path {path}", check=False)
        assert done.returncode == 1, done
        return done.stderr


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageBox]:
    if os.geteuid() != 0:
        pytest.exit("tests/storage makes a host, which needs root\n\nhint: sudo .venv/bin/pytest tests/storage", 4)
    if reason := why_no_loop_devices():
        pytest.skip(f"NOT TESTED on block devices: {reason}; tests/test_storage.py has files in their place")
    hosts.down(NAME)
    box = StorageBox(tmp_path_factory.mktemp("storage"))
    yield box
    box.throw_away()
    for disk in box.disks:
        disk.detach(missing_ok=True)
