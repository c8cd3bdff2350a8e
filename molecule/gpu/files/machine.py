#!/usr/bin/env python3
"""A stand-in for a machine with GPUs, for a host that has none: what PCI shows, what loading a driver does to it, and
what the kernel does at boot.

    machine.py set-up            once: all that follows, now and at each boot
    machine.py boot              /sys/bus/pci/devices and /sys/module, by bind mounts; then a driver as udev loads it
    machine.py modprobe WORDS    in place of modprobe: nvidia is "loaded" from a module that modinfo finds
    machine.py unload            as if no driver had been loaded

While /etc/stand-in/nouveau exists, the kernel's own driver takes the GPUs at boot, unless modprobe.d forbids it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
STATE = Path("/run/stand-in")
DEVICES, MODULES, DRIVERS = STATE / "devices", STATE / "module", STATE / "drivers"
GPUS = {f"0000:{bus:02x}:00.0": ("2330", "0x030200") for bus in (0x18, 0x2A, 0x3A, 0x5D, 0x9A, 0xAB, 0xBA, 0xDB)}
SWITCHES = {f"0000:{bus:02x}:00.0": ("22a3", "0x068000") for bus in (0x05, 0x06, 0x07, 0x08)}
NOUVEAU = Path("/etc/stand-in/nouveau")
UNITS = {
    "stand-in-gpus": f"""\
[Unit]
Description=Stand-in GPUs
Before=ssh.service nvidia-persistenced.service nvidia-fabricmanager.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={HERE} boot
[Install]
WantedBy=multi-user.target
""",
    "stand-in-repository": """\
[Unit]
Description=Stand-in for NVIDIA's repository
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv/stand-in 8998
[Install]
WantedBy=multi-user.target
""",
}
MODPROBE = f'#!/bin/sh\nexec {HERE} modprobe "$@"\n'
# The host has no initramfs; one that is there is made anew by its date.
UPDATE_INITRAMFS = '#!/bin/sh\necho "$@" >>/var/log/update-initramfs\ntouch /boot/initrd.img-*\n'


def run(*command: str) -> str:
    """A command's output; its failure is ours."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def set_up() -> None:
    """Units, and what stands in for programs that change the kernel."""
    for path, text in ((Path("/usr/sbin/modprobe"), MODPROBE), (Path("/usr/sbin/update-initramfs"), UPDATE_INITRAMFS)):
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    Path("/srv/stand-in").mkdir(exist_ok=True)
    for name, text in UNITS.items():
        Path(f"/etc/systemd/system/{name}.service").write_text(text)
        run("systemctl", "enable", "--quiet", "--now", f"{name}.service")


def boot() -> None:
    """PCI, no modules, and a driver where there is one."""
    MODULES.mkdir(parents=True)
    for address, (device, kind) in {**GPUS, **SWITCHES}.items():
        (DEVICES / address).mkdir(parents=True)
        for name, text in (("vendor", "0x10de"), ("device", f"0x{device}"), ("class", kind)):
            (DEVICES / address / name).write_text(f"{text}\n")
    run("mount", "--bind", str(DEVICES), "/sys/bus/pci/devices")
    run("mount", "--bind", str(MODULES), "/sys/module")
    rules = "".join(path.read_text() for path in Path("/etc/modprobe.d").glob("*.conf"))
    if NOUVEAU.exists() and "blacklist nouveau" not in rules:
        bind("nouveau")
    elif on_disk():
        load()


def on_disk() -> str:
    """The version of the module that modprobe would load."""
    done = subprocess.run(["modinfo", "--field", "version", "nvidia"], text=True, capture_output=True, check=False)
    return done.stdout.strip()


def bind(driver: str) -> None:
    """The kernel gives the GPUs to a driver; an empty name takes them away."""
    for address in GPUS:
        link = DEVICES / address / "driver"
        link.unlink(missing_ok=True)
        if driver:
            (DRIVERS / driver).mkdir(parents=True, exist_ok=True)
            link.symlink_to(DRIVERS / driver)


def load() -> None:
    (MODULES / "nvidia").mkdir(exist_ok=True)
    (MODULES / "nvidia" / "version").write_text(f"{on_disk()}\n")
    bind("nvidia")


def unload() -> None:
    shutil.rmtree(MODULES / "nvidia", ignore_errors=True)
    bind("")


def modprobe(words: list[str]) -> str:
    """Load nvidia; why it cannot be loaded, or an empty string."""
    if "nvidia" not in words:
        os.execv("/usr/bin/kmod", ["modprobe", *words])
    if not on_disk():
        return f"modprobe: FATAL: Module nvidia not found in directory /lib/modules/{os.uname().release}"
    if any((DEVICES / address / "driver").resolve().name == "nouveau" for address in GPUS):
        return "modprobe: ERROR: could not insert 'nvidia': No such device"
    if not (MODULES / "nvidia").exists():
        load()
    return ""


def main(words: list[str]) -> str:
    """One command; its error."""
    steps = {"set-up": set_up, "boot": boot, "unload": unload}
    if words[0] == "modprobe":
        return modprobe(words[1:])
    steps[words[0]]()
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
