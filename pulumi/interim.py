"""Stands in for the catalogue and the planner until they are there: takes every type and every preset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORAGE = {"storage_data_size_gib": 200}
_TYPES = {"g6e.2xlarge": ("1xL40S", 64), "p5.48xlarge": ("8xH100", 2048), "g7e.24xlarge": ("4xRTXPRO6000", 1024)}


@dataclass(frozen=True)
class InstanceType:
    name: str
    gpus: str
    ram_gib: float
    network_cards: int = 1
    max_efa: int = 0
    usage_classes: frozenset[str] = frozenset({"on-demand", "spot"})


@dataclass(frozen=True)
class Plan:
    fits: bool = True
    refusals: tuple[Any, ...] = ()


def instance_type(name: str) -> InstanceType:
    gpus, ram = _TYPES.get(name, ("1xT4" if name.startswith("g4dn") else "", 32))
    return InstanceType(name, gpus, ram, 1, 1 if name.startswith(("p5", "g7e")) else 0)


def plan_preset(root: Path, name: str) -> Plan:
    return Plan()
