"""What GPUs this machine has: as PCI shows them, and as the driver does, where there is one. Changes nothing.

Ansible runs it on machines where nothing of infbox is yet (`ansible/plugins/module_utils/` links here): the standard
library alone, and Python 3.8.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035

NVIDIA = "0x10de"
DISPLAY_CONTROLLER = "0x03"
NVSWITCH = "0x0680"  # a bridge of NVIDIA's
DEVICES, MEMINFO = Path("/sys/bus/pci/devices"), Path("/proc/meminfo")
ASKED = ("pci.bus_id", "name", "memory.total", "compute_cap", "driver_version")
ANSWER_SECONDS = 60
Facts = Dict[str, Any]  # noqa: UP006


def machine_facts(devices: Path = DEVICES, nvidia_smi: str = "nvidia-smi", meminfo: Path = MEMINFO) -> Facts:
    """RAM in GiB; each GPU; how many NVSwitches; what of the driver is wrong (empty: nothing, or there is none).

    A GPU has its address and its device id on PCI and the kernel driver that has it (empty: none); where NVIDIA's
    driver answers, also its name, memory in MiB, compute capability and the driver's version.
    """
    gpus: List[Facts] = []  # noqa: UP006
    switches = 0
    for device in sorted(devices.iterdir()) if devices.is_dir() else ():
        if _read(device / "vendor") != NVIDIA:
            continue
        kind = _read(device / "class")
        switches += kind.startswith(NVSWITCH)
        if kind.startswith(DISPLAY_CONTROLLER):
            bound = device / "driver"
            driver = bound.resolve().name if bound.exists() else ""
            gpus.append({"address": device.name, "device": _read(device / "device")[2:], "driver": driver})
    fault = ""
    if any(gpu["driver"] == "nvidia" for gpu in gpus):
        told, fault = _ask_driver(nvidia_smi)
        for gpu in gpus:
            gpu.update(told.get(_short(gpu["address"]), {}))
    total = re.search(r"^MemTotal:\s+(\d+) kB$", _read(meminfo), re.MULTILINE)
    return {
        "ram_gib": int(total[1]) / 2**20 if total else 0.0,
        "gpus": gpus,
        "nvswitches": switches,
        "driver_fault": fault,
    }


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _short(address: str) -> str:
    """PCI's domain has four digits in /sys and eight in nvidia-smi."""
    domain, _, rest = address.lower().partition(":")
    return f"{int(domain, 16):x}:{rest}"


def _ask_driver(nvidia_smi: str) -> "tuple[Dict[str, Facts], str]":  # noqa: UP006
    """What NVIDIA's own tool says of each GPU, by its short address, and why it says nothing."""
    command = [nvidia_smi, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)  # noqa: S603
    except FileNotFoundError:
        return {}, "the kernel has NVIDIA's driver, and there is no nvidia-smi"
    except subprocess.TimeoutExpired:
        return {}, f"nvidia-smi does not answer within {ANSWER_SECONDS} s"
    if done.returncode:
        return {}, f"nvidia-smi: {(done.stdout + done.stderr).strip()[:500]}"
    told: Dict[str, Facts] = {}  # noqa: UP006
    for line in done.stdout.splitlines():
        row = _row(line)
        if row is None:
            return {}, f"nvidia-smi says what is not understood: {line[:200]}"
        told[row.pop("address")] = row
    return told, ""


def _row(line: str) -> Optional[Facts]:  # noqa: UP045
    fields: List[str] = [field.strip() for field in line.split(",")]  # noqa: UP006
    try:
        address, name, memory, capability, version = fields
        return {
            "address": _short(address),
            "name": name,
            "memory_mib": int(memory),
            "compute_capability": float(capability),
            "driver_version": version,
        }
    except ValueError:
        return None
