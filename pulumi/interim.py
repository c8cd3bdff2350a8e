"""Stands in for the planner until it is there: takes every preset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    fits: bool = True
    refusals: tuple[Any, ...] = ()


def plan_preset(root: Path, name: str) -> Plan:
    return Plan()
