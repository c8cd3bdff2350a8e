"""A machine that has the driver of Debian itself: its real packages, as far as they need no kernel.

Before test_driver.py, which finds the host as converge.yml left it.
Of them nvidia-smi, nvidia-persistenced and their libraries are installed; the module, which is built on the machine
from the sources in another, is a stand-in of the name that Debian gives it.
"""

from typing import Any

from test_driver import STAND_IN, changed, loaded, message, play, versions

MODULES = "/lib/modules/$(uname -r)/updates/dkms"
NON_FREE = "/etc/apt/sources.list.d/non-free.list"


def put_module(host: Any, name: str, version: str) -> None:
    write = f"import driver, sys; sys.stdout.buffer.write(driver.module({version!r}))"
    host.check_output(f"mkdir -p {MODULES} && cd {STAND_IN} && python3 -c {write!r} >{MODULES}/{name}.ko && depmod -a")


def test_it_is_recognised_before_it_is_loaded(host: Any) -> None:
    host.check_output("systemctl stop nvidia-persistenced nvidia-fabricmanager")
    host.check_output(f"apt-get purge --quiet --yes '*nvidia*' libcuda1 && {STAND_IN}/machine.py unload")
    host.check_output("rm -r /var/lib/infbox/nvidia-driver.json /etc/apt/*.d/infbox-nvidia*")
    source = "$(sed 's/ main$/ contrib non-free/' /etc/apt/sources.list)"
    host.check_output(f'echo "{source}" >{NON_FREE} && apt-get -qq update')
    host.check_output("apt-get -qq install --no-install-recommends nvidia-smi nvidia-persistenced")
    version = host.package("nvidia-smi").version.partition("-")[0]
    put_module(host, "nvidia-current", version)
    said = message(play())
    assert f"the NVIDIA driver {version} of this machine was not installed by infbox, and it is older than the" in said
    assert "`apt-get purge '*nvidia*'`" in said


def test_what_its_nvidia_smi_says_without_a_gpu_is_told(host: Any) -> None:
    put_module(host, "nvidia", "580.105.08")
    host.check_output("modprobe nvidia")
    complaint = host.check_output("! nvidia-smi --query-gpu=name --format=csv,noheader")
    assert "Failed to initialize NVML" in complaint
    said = message(play())
    assert f"was not installed by infbox, and it does not work: nvidia-smi: {complaint}" in said


def test_removed_as_that_message_says_it_makes_room_for_nvidias(host: Any) -> None:
    host.check_output("apt-get purge --quiet --yes '*nvidia*'")
    host.check_output(f"rm -r {MODULES} && depmod -a && {STAND_IN}/machine.py unload")
    assert changed(play(nvidia_driver_version="580.95.05")) > 0
    assert versions(host) == {"580.95.05-1"}
    assert loaded(host) == "580.95.05"
    host.check_output(f"rm {NON_FREE} && apt-get -qq update")
