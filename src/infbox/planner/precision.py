"""The precision rule: FP8 where a GPU has 40 GB or more, runs FP8, and the context still fits; INT4 otherwise."""

from dataclasses import replace

from infbox.catalogue.models import Model, variants
from infbox.planner.checks import faults
from infbox.planner.setup import Setup, in_fp8

FP8_FROM_GB = 40


def recommended(setup: Setup) -> str:
    """FP8 or INT4, by the rule. A model that the catalogue has not in FP8 is tried as its FP8 would be."""
    gpus = setup.gpus
    if gpus is None or gpus.gpu.memory_gb < FP8_FROM_GB or not gpus.gpu.has_fp8:
        return "INT4"
    if setup.architecture.quantization.is_fp8:
        return "INT4" if faults(setup) else "FP8"
    named = [each for each in variants(setup.model) if each.architecture.quantization.is_fp8]
    tried = [replace(setup, model=each) for each in named or [in_fp8(setup.model)]]
    return "FP8" if any(not faults(each) for each in tried) else "INT4"


def precision_notes(setup: Setup) -> list[str]:
    """What the rule says where the setup differs, and the catalogue has a model that follows it."""
    if setup.gpus is None:
        return []
    rule, has = recommended(setup), setup.architecture.quantization.name
    if rule in has or (rule == "INT4" and setup.architecture.quantization.bits == 4):
        return []
    other = next(iter(_fitting(setup, rule)), None)
    if other is None:
        return []
    return [f"by the precision rule this would be {rule}, as in {other.model.name}; {has} is what the preset chose"]


def _fitting(setup: Setup, kind: str) -> list[Setup]:
    """The setup with the model's variants of that kind, those that are not refused."""
    named: list[Model] = [each for each in variants(setup.model) if kind in each.architecture.quantization.name]
    tried = [replace(setup, model=each) for each in named]
    return [each for each in tried if not faults(each)]
