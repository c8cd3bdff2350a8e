"""What GPUs this machine has, and how they are: as PCI shows them, and as the driver does, where there is one.

Changes nothing. Ansible runs it on machines where nothing of infbox is yet (`ansible/plugins/module_utils/` links
here): the standard library alone, and Python 3.8.
"""

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035

NVIDIA = "0x10de"
DISPLAY_CONTROLLER = "0x03"
NVSWITCH = "0x0680"  # a bridge of NVIDIA's
DEVICES, MEMINFO, SHARED_MEMORY = Path("/sys/bus/pci/devices"), Path("/proc/meminfo"), Path("/dev/shm")  # noqa: S108
ASKED = ("pci.bus_id", "name", "memory.total", "compute_cap", "driver_version")
ANSWER_SECONDS = 60
# What it adds below its answer, as of a memory on the card that holds its settings.
WARNING = "WARNING:"
# PCI Express' extended capabilities: where the list begins, Access Control Services, and the bits of its control that
# send what one device writes to another up to the processor (P2P request and completion redirect).
EXTENDED, ACS, REDIRECTS = 0x100, 0x000D, 0x000C
# What nvidia-smi has of each pair of GPUs: the way between them, and whether one may read the other's memory.
PEERS = {"path": ("topo", "-m"), "access": ("topo", "-p2p", "r")}
UNDERLINED = re.compile(r"\x1b\[\d*m")
Facts = Dict[str, Any]  # noqa: UP006


def machine_facts(
    devices: Path = DEVICES, nvidia_smi: str = "nvidia-smi", meminfo: Path = MEMINFO, shared: Path = SHARED_MEMORY
) -> Facts:
    """RAM and shared memory in GiB; each GPU; how many NVSwitches; what of the driver is wrong (empty: nothing, or
    there is none).

    A GPU has its address and its device id on PCI, the kernel driver that has it (empty: none), and what lies between
    it and others; where NVIDIA's driver answers, also its name, memory in MiB, compute capability, the driver's
    version, `health`, and of other GPUs, by their addresses, `peers`.
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
            gpus.append({"address": device.name, "device": _read(device / "device")[2:], "driver": driver,
                         **_between(device)})  # fmt: skip
    fault = ""
    if any(gpu["driver"] == "nvidia" for gpu in gpus):
        told, fault = _ask_driver(nvidia_smi)
        health, unhealthy = ({}, "") if fault else ask_health(nvidia_smi)
        for gpu in gpus:
            short = short_address(gpu["address"])
            gpu.update(told.get(short, {}))
            if short in health:
                gpu["health"] = health[short]
        if len(told) > 1:
            _add_peers({short_address(gpu["address"]): gpu for gpu in gpus}, list(told), nvidia_smi)
        fault = fault or unhealthy
    total = re.search(r"^MemTotal:\s+(\d+) kB$", _read(meminfo), re.MULTILINE)
    return {
        "ram_gib": int(total[1]) / 2**20 if total else 0.0,
        "shared_memory_gib": _size_gib(shared),
        "gpus": gpus,
        "nvswitches": switches,
        "driver_fault": fault,
    }


def gpu_faults(facts: Facts) -> List[Dict[str, str]]:  # noqa: UP006
    """What is wrong with the GPUs that NVIDIA's driver has: the GPU's `address`, the `kind` for programs, `what` it is
    in one sentence, and what to do (`hint`); nothing where the driver says nothing."""
    found: List[Dict[str, str]] = []  # noqa: UP006
    if facts["driver_fault"]:
        return found
    for gpu in facts["gpus"]:
        if gpu["driver"] != "nvidia":
            continue
        found += [
            {"address": gpu["address"], "kind": kind, "what": what, "hint": hint}
            for kind, what, hint in (_faults(gpu) if "health" in gpu else [_MISSING])
        ]
    return found


RESET = "stop infbox-vllm, `nvidia-smi --gpu-reset`, start it again; or reboot the machine"
_MISSING = (
    "missing",
    "it is on PCI, and nvidia-smi does not list it",
    "`journalctl --dmesg --grep NVRM` says why; reboot the machine, and replace the GPU if that does not help",
)


def _faults(gpu: Facts) -> "List[tuple[str, str, str]]":  # noqa: UP006
    health = gpu["health"]
    found: "List[tuple[str, str, str]]" = []  # noqa: UP006, UP037
    if health["recovery"]:
        reboot = "reboot" in health["recovery"].lower()
        asked = f"its driver asks for: {health['recovery']}"
        found.append(("recovery", asked, "reboot the machine" if reboot else RESET))
    if health["remap_failed"]:
        found.append(("remap_failed", "memory that failed could not be replaced by spare memory", "replace the GPU"))
    if health["remap_pending"]:
        found.append(("remap_pending", "memory that failed is replaced by spare memory at its next reset", RESET))
    if health["uncorrected_errors"]:
        number = health["uncorrected_errors"]
        count = f"{number} memory error{'s'[: number != 1]} since its driver was loaded that ECC could not correct"
        found.append(("uncorrected", count, f"{RESET}; replace the GPU if they come again"))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _size_gib(path: Path) -> float:
    try:
        whole = os.statvfs(path)
    except OSError:
        return 0.0
    return whole.f_blocks * whole.f_frsize / 2**30


def _between(device: Path) -> Facts:
    """What of the machine stands between this device and others: `iommu`, how an IOMMU has it (DMA, DMA-FQ, identity),
    and `redirected_by`, the bridges above it that redirect, which root alone sees; each where there is one."""
    above = [path for path in device.resolve().parents if (path / "config").is_file()]
    found = {
        "iommu": _read(device / "iommu_group" / "type"),
        "redirected_by": [path.name for path in above if _redirects(path / "config")],
    }
    return {name: value for name, value in found.items() if value}


def _redirects(config: Path) -> bool:
    try:
        space = config.read_bytes()
    except OSError:
        return False
    at = EXTENDED
    for _ in range(len(space) // 8):  # a list that bites its tail ends, too
        if not EXTENDED <= at <= len(space) - 8:
            return False
        head = int.from_bytes(space[at : at + 4], "little")
        if head & 0xFFFF == ACS:
            return bool(int.from_bytes(space[at + 6 : at + 8], "little") & REDIRECTS)
        at = head >> 20
    return False


def short_address(address: str) -> str:
    """PCI's domain has four digits in /sys and eight in nvidia-smi."""
    domain, _, rest = address.lower().partition(":")
    return f"{int(domain, 16):x}:{rest}"


def _answer(command: List[str]) -> "tuple[str, str]":  # noqa: UP006
    """What nvidia-smi says, and why it says nothing. One that a broken GPU keeps in the kernel cannot be killed: it is
    not waited for."""
    pipe = subprocess.PIPE
    try:
        asked = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, errors="replace")  # noqa: S603
    except FileNotFoundError:
        return "", "the kernel has NVIDIA's driver, and there is no nvidia-smi"
    except OSError as fault:
        return "", f"nvidia-smi cannot be run: {fault}"
    try:
        said, complained = asked.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        asked.kill()
        return "", f"nvidia-smi does not answer within {ANSWER_SECONDS} s"
    return (said, "") if not asked.returncode else ("", f"nvidia-smi: {(said + complained).strip()[:500]}")


def _ask_driver(nvidia_smi: str) -> "tuple[Dict[str, Facts], str]":  # noqa: UP006
    """What NVIDIA's own tool says of each GPU, by its short address, and why it says nothing."""
    said, fault = _answer([nvidia_smi, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"])
    told: Dict[str, Facts] = {}  # noqa: UP006
    for line in said.splitlines():
        if line.startswith(WARNING):
            continue
        row = _row(line)
        if row is None:
            return {}, f"nvidia-smi says what is not understood: {line[:200]}"
        told[row.pop("address")] = row
    return told, fault


def _add_peers(gpus: Dict[str, Facts], told: List[str], nvidia_smi: str) -> None:  # noqa: UP006
    """Of each GPU and each other one their `path`, as NV4 (that many NVLinks) or PHB (PCIe, by the processor), and
    their `access`, OK or why there is none, in nvidia-smi's abbreviations, as far as it says it; `told` in its order.
    """
    for name, words in PEERS.items():
        said, _ = _answer([nvidia_smi, *words])
        for row, cells in enumerate(_matrix(said, len(told))):
            for column, cell in enumerate(cells):
                if row != column and told[row] in gpus and told[column] in gpus:
                    peers = gpus[told[row]].setdefault("peers", {})
                    peers.setdefault(gpus[told[column]]["address"], {})[name] = cell


def _matrix(said: str, count: int) -> List[List[str]]:  # noqa: UP006
    """The table of all GPUs, without the network cards and what stands behind them; empty where there is none."""
    rows: List[List[str]] = []  # noqa: UP006
    for line in UNDERLINED.sub("", said).splitlines():
        name, *cells = line.split() or [""]
        if name == f"GPU{len(rows)}" and len(rows) < len(cells) and cells[len(rows)] == "X":
            rows.append(cells[:count])
    return rows if len(rows) == count else []


def ask_health(nvidia_smi: str = "nvidia-smi") -> "tuple[Dict[str, Facts], str]":  # noqa: UP006
    """How each GPU is, by its short address, and why nvidia-smi does not say it.

    Its XML is read, since a field that a driver does not know yet is left out there, where --query-gpu fails for it.
    """
    said, fault = _answer([nvidia_smi, "-q", "-x"])
    if fault:
        return {}, fault
    try:
        log = ElementTree.fromstring(said.partition(WARNING)[0])  # noqa: S314 (the driver's own tool wrote it)
        return {short_address(gpu.attrib["id"]): _health(gpu) for gpu in log.iter("gpu")}, ""
    except (ElementTree.ParseError, KeyError, ValueError):
        return {}, f"nvidia-smi says what is not understood: {said.strip()[:200]}"


def _health(gpu: "ElementTree.Element") -> Facts:
    def text(path: str) -> str:
        return (gpu.findtext(path) or "").strip()

    since_loaded = [each for each in gpu.iterfind("ecc_errors/volatile/*") if "uncorrectable" in each.tag]
    counted = [each.text or "" for each in since_loaded] + [text("ecc_errors/volatile/double_bit/total")]
    # Drivers before R570 say of a reset alone that it is needed.
    older = "Reset" if text("gpu_reset_status/reset_required") == "Yes" else ""
    recovery = text("gpu_recovery_action") or older
    retired = ("pending_retirement", "pending_blacklist")  # what GPUs before Ampere have in place of remapped rows
    pending = [text("remapped_rows/remapped_row_pending"), *(text(f"retired_pages/{name}") for name in retired)]
    return {
        "uncorrected_errors": sum(int(count) for count in counted if count.strip().isdigit()),
        "remap_pending": "Yes" in pending,
        "remap_failed": text("remapped_rows/remapped_row_failure") == "Yes",
        "recovery": "" if recovery in ("None", "N/A") else recovery,
    }


def _row(line: str) -> Optional[Facts]:  # noqa: UP045
    fields: List[str] = [field.strip() for field in line.split(",")]  # noqa: UP006
    try:
        address, name, memory, capability, version = fields
        return {
            "address": short_address(address),
            "name": name,
            "memory_mib": int(memory),
            "compute_capability": float(capability),
            "driver_version": version,
        }
    except ValueError:
        return None
