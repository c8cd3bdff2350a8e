"""Run on the box: whether it has the GPUs and the memory that its preset is made for.

Reads PCI and /proc alone, so that it can say so before a driver is there; changes nothing.
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: infbox_hardware
short_description: Compare the machine with the one that the preset is made for
options:
  gpus:
    type: str
    default: ""
    description: GPUs of the host, as NxNAME or NxNAME-GB; empty for none.
  ram_gib:
    type: int
    default: 0
    description: The least GiB of RAM.
"""
NVIDIA = "0x10de"
DISPLAY_CONTROLLER = "0x03"
# A machine sold with N GiB shows less: the kernel and the firmware keep some.
KEPT = 0.08


def nvidia_gpus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """How many NVIDIA GPUs there are on PCI, drivers or none."""

    def read(device: Path, name: str) -> str:
        try:
            return (device / name).read_text().strip()
        except OSError:
            return ""

    found = devices.iterdir() if devices.is_dir() else ()
    return sum(read(each, "vendor") == NVIDIA and read(each, "class").startswith(DISPLAY_CONTROLLER) for each in found)


def main() -> None:
    """Fail with all that is less than the preset needs."""
    module = AnsibleModule(
        argument_spec={"gpus": {"type": "str", "default": ""}, "ram_gib": {"type": "int", "default": 0}},
        supports_check_mode=True,
    )
    gpus, ram_gib = module.params["gpus"], module.params["ram_gib"]
    problems = []
    wanted = re.match(r"(\d+)x", gpus)
    found = nvidia_gpus()
    if wanted and found < int(wanted[1]):
        problems.append(
            f"`hardware_gpus` is {gpus}, and this machine has {found or 'no'} NVIDIA GPU{'s'[: found != 1]}"
        )
    total = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    there = int(total[1]) / 2**20 if total else 0.0
    if there < ram_gib * (1 - KEPT):
        problems.append(f"`hardware_ram_gib` is {ram_gib}, and this machine has {there:.1f} GiB of RAM")
    if problems:
        hint = (
            "use a machine like the preset's, or a preset for this one: `infbox plan PRESET --gpus NxNAME` checks one"
        )
        module.fail_json(msg="; ".join(problems) + f"\n\nhint: {hint}")
    module.exit_json(changed=False, gpus=found)


if __name__ == "__main__":
    main()
