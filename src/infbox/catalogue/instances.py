"""AWS's instance types with GPUs, and a few without, out of aws_instances.csv."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from infbox.catalogue.gpus import gpus
from infbox.errors import PresetError
from infbox.variables import nearest_name

FILE = Path(__file__).with_name("aws_instances.csv")


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One type. `gpus` is as `hardware_gpus` has it, empty for none and for a part of a GPU."""

    name: str
    gpus: str
    gpu_count: int
    vcpus: int
    ram_gib: int
    arch: str
    nvme_disks: int
    nvme_total_gb: int
    network_cards: int
    max_efa: int
    usage_classes: frozenset[str]
    placement: frozenset[str]


@cache
def instance_types() -> Mapping[str, InstanceType]:
    """Every type of the catalogue by name."""
    lines = (line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {row["instance_type"]: _instance_type(row) for row in csv.DictReader(lines)}


def instance_type(name: str) -> InstanceType:
    """The type `name`.

    Raises:
        PresetError: there is none; names the nearest.
    """
    known = instance_types()
    if name in known:
        return known[name]
    nearest = nearest_name(name, list(known), cutoff=0.5)
    hint = f"did you mean {nearest}? " if nearest else ""
    raise PresetError(f"no AWS instance type `{name}` is known", f"{hint}they stand in {FILE.parent.name}/{FILE.name}")


def _instance_type(row: dict[str, str]) -> InstanceType:
    count = int(row["gpu_count"])
    return InstanceType(
        name=row["instance_type"],
        gpus=f"{count}x{_gpu_name(row['gpu_model'], float(row['gpu_mem_gib_each']))}" if count else "",
        gpu_count=count,
        vcpus=int(row["vcpus"]),
        ram_gib=int(float(row["ram_gib"])),
        arch=row["arch"],
        nvme_disks=int(row["nvme_disks"]),
        nvme_total_gb=int(row["nvme_total_gb"]),
        network_cards=int(row["network_cards"]),
        max_efa=int(row["max_efa"]),
        usage_classes=frozenset(row["usage_classes"].split("+")),
        placement=frozenset(row["placement"].split("+")),
    )


def _gpu_name(aws: str, memory_gib: float) -> str:
    """Our name of what AWS calls `aws`; of one model with several sizes, the nearest in memory."""
    known = [gpu for gpu in gpus().values() if gpu.aws == aws]
    return min(known, key=lambda gpu: abs(gpu.memory_gb - memory_gib)).name
