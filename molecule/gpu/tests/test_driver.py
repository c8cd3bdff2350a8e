"""The driver from its first installation to one that had to be taken back. The tests go on from one another, in order.

No GPU is here: molecule/gpu/files says what stands in for one, and for NVIDIA's packages.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "hosts"))
import host as hosts

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
STAND_IN = "/usr/local/lib/stand-in"
PACKAGES = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced", "nvidia-fabricmanager", "libcuda1")


def play(*options: str, tags: str = "nvidia_driver", **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a role, the way molecule converges it; variables have their types."""
    extra = ["--extra-vars", json.dumps(variables)] if variables else []
    command = ["ansible-playbook", "-i", str(INVENTORY), "--tags", tags, *extra, *options]
    environment = os.environ | {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(
        [*command, str(ROOT / "molecule/gpu/converge.yml")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    print(done.stdout[-6000:], done.stderr[-2000:])
    return done


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks of a run that ended well changed something."""
    assert done.returncode == 0
    return int(re.findall(r"changed=(\d+)", done.stdout)[-1])


def message(done: subprocess.CompletedProcess[str]) -> str:
    """What a run stopped with; Ansible's own wrapping of it undone."""
    assert done.returncode == 2
    return " ".join(done.stdout[done.stdout.index("fatal: ") :].split())


def versions(host: Any) -> set[str]:
    """The versions of the packages."""
    return set(host.check_output(f"dpkg-query --show --showformat='${{Version}}\\n' {' '.join(PACKAGES)}").split())


def loaded(host: Any) -> str:
    return host.check_output("cat /sys/module/nvidia/version")


def record(host: Any) -> dict[str, Any]:
    return json.loads(host.check_output("cat /var/lib/infbox/nvidia-driver.json"))


@pytest.fixture
def power(host: Any) -> Iterator[None]:
    """A host that goes down comes up again, as a machine does that reboots."""
    name, address = host.check_output("hostname"), host.check_output("hostname -I").split()[0]
    hosts.prepare_machine()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if not hosts.is_running(name):
                hosts.switch_on(name, address)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_the_newest_driver_that_is_whole_is_installed_and_works(host: Any) -> None:
    assert versions(host) == {"580.95.05-1"}
    assert loaded(host) == "580.95.05"
    assert len(host.check_output("nvidia-smi").splitlines()) == 8
    for name in ("nvidia-persistenced", "nvidia-fabricmanager"):
        assert host.check_output(f"systemctl is-active {name}") == "active"
        assert host.file(f"/etc/systemd/system/multi-user.target.wants/{name}.service").exists
    assert "blacklist nouveau" in host.file("/etc/modprobe.d/infbox-nouveau.conf").content_string
    assert record(host)["good"] == record(host)["wanted"]
    assert host.package(f"linux-headers-{host.check_output('uname -r')}").is_installed
    assert "contrib" in host.check_output("apt-get indextargets --format '$(COMPONENT)' 'Created-By: Packages'")


def test_a_newer_driver_in_the_repository_changes_nothing(host: Any) -> None:
    host.check_output(f"{STAND_IN}/driver.py publish 580.105.08 && apt-get -qq update")
    assert "580.105.08" in host.check_output("apt-cache madison nvidia-driver-cuda")
    assert "nvidia" not in host.check_output("apt-get --simulate --quiet dist-upgrade")
    assert changed(play()) == 0
    assert versions(host) == {"580.95.05-1"}


def test_a_fabric_manager_of_another_version_is_refused_before_anything_is_installed(host: Any) -> None:
    said = message(play(nvidia_driver_version="580.142"))
    assert "has no nvidia-fabricmanager of driver 580.142; NVSwitches need the Fabric Manager" in said
    assert "hint: set `nvidia_driver_version` to one that is whole there: 580.95.05, 580.105.08" in said
    assert versions(host) == {"580.95.05-1"}


def test_a_check_names_the_packages_and_changes_nothing(host: Any) -> None:
    done = play("--check", "--verbose", nvidia_driver_version="580.105.08")
    assert changed(done) == 1
    assert "nvidia-fabricmanager=580.105.08-1" in done.stdout
    assert versions(host) == {"580.95.05-1"}
    assert record(host)["wanted"]["version"] == "580.95.05"


def test_a_reboot_that_nobody_allowed_is_asked_for(host: Any) -> None:
    said = message(play(nvidia_driver_version="580.105.08"))
    assert (
        "driver 580.105.08 is installed, and takes effect with the next boot: the kernel runs driver 580.95.05" in said
    )
    assert "hint: `systemctl reboot` when it suits, then run the same command again" in said
    assert versions(host) == {"580.105.08-1"}
    assert loaded(host) == "580.95.05"


@pytest.mark.usefixtures("power")
def test_a_reboot_that_is_allowed_brings_the_driver(host: Any) -> None:
    before = host.check_output("cat /proc/sys/kernel/random/boot_id")
    assert play(nvidia_driver_version="580.105.08", nvidia_driver_allow_reboot=True).returncode == 0
    assert host.check_output("cat /proc/sys/kernel/random/boot_id") != before
    assert loaded(host) == "580.105.08"
    assert record(host)["good"]["version"] == "580.105.08"
    assert host.check_output("systemctl is-active nvidia-persistenced nvidia-fabricmanager").split() == ["active"] * 2
    assert changed(play(nvidia_driver_version="580.105.08")) == 0
    assert changed(play()) == 0


@pytest.mark.usefixtures("power")
def test_an_upgrade_after_which_a_gpu_is_silent_is_taken_back(host: Any) -> None:
    host.check_output(f"{STAND_IN}/driver.py publish 580.126.09 --silent 1")
    said = message(play(nvidia_driver_version="580.126.09", nvidia_driver_allow_reboot=True))
    assert "driver 580.126.09 does not work: nvidia-smi does not list the GPU at 0000:18:00.0" in said
    assert "580.105.08, which worked, is back" in said
    assert versions(host) == {"580.105.08-1"}
    assert loaded(host) == "580.105.08"
    assert changed(play()) == 0


def test_a_driver_of_others_is_left_alone(host: Any) -> None:
    host.check_output("systemctl stop nvidia-persistenced nvidia-fabricmanager")
    host.check_output(f"apt-get purge --quiet --yes '*nvidia*' && {STAND_IN}/driver.py alien 580.65.06")
    done = play()
    assert changed(done) == 0
    assert "the NVIDIA driver 580.65.06 of this machine was not installed by infbox and is left alone" in done.stdout
    assert not host.package("nvidia-driver-cuda").is_installed


def test_a_driver_of_others_that_is_too_old_is_refused(host: Any) -> None:
    host.check_output(f"{STAND_IN}/driver.py alien 535.183.01")
    said = message(play())
    assert "the NVIDIA driver 535.183.01 of this machine was not installed by infbox, and it is older than the" in said
    assert "engine needs: 580.65.06 (`nvidia_driver_least`)" in said
    assert "hint: upgrade it the way it came; or remove it" in said


@pytest.mark.usefixtures("power")
def test_nouveau_gives_the_gpus_up_with_a_reboot(host: Any) -> None:
    initramfs = "/boot/initrd.img-$(uname -r)"
    host.check_output(f"{STAND_IN}/driver.py gone && rm /etc/modprobe.d/infbox-nouveau.conf && mkdir -p /etc/stand-in")
    host.check_output(f"touch --date=2020-01-01 {initramfs} /etc/stand-in/nouveau && umount /sys/bus/pci/devices")
    host.check_output(f"umount /sys/module; rm -r /run/stand-in && {STAND_IN}/machine.py boot")
    said = message(play(nvidia_driver_version="580.105.08"))
    assert "takes effect with the next boot: the kernel's own driver, nouveau, has the GPUs" in said
    assert host.check_output("cat /var/log/update-initramfs") == "-u -k all"
    assert play(nvidia_driver_version="580.105.08", nvidia_driver_allow_reboot=True).returncode == 0
    assert loaded(host) == "580.105.08"
    assert host.check_output("wc -l </var/log/update-initramfs") == "1"
