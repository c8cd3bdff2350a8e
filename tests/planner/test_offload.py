"""Weights that stay in RAM (`vllm_cpu_offload_gb`), as vLLM 0.32 offloads them: of the layers alone, on each GPU."""

from pathlib import Path
from typing import Any

import pytest

from infbox.errors import PresetError
from infbox.planner import plan_values, role_defaults
from infbox.planner.plan import Plan
from infbox.preset import load_preset

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def planned(preset: str = "dev32", **values: Any) -> Plan:
    return plan_values(role_defaults(ROOT) | load_preset(ROOT, preset).values | values)


def test_a_model_that_is_too_large_fits_with_a_part_of_it_in_ram() -> None:
    small = {"hardware_gpus": "1xT4", "vllm_max_model_len": 8192}
    assert not planned(**small).fits
    found = planned(**small, vllm_cpu_offload_gb=10)
    assert found.fits
    assert found.budget is not None
    assert found.budget.offloaded == 10 * GIB
    assert any("10.0 GiB of each GPU's weights stay in RAM, read over PCIe at every step: 1.9 steps" in note
               for note in found.notes)  # fmt: skip


def test_what_is_offloaded_is_kv_cache_and_no_more() -> None:
    plain, offloaded = planned().budget, planned(vllm_cpu_offload_gb=2.5).budget
    assert plain is not None
    assert offloaded is not None
    assert offloaded.kv - plain.kv == plain.weights - offloaded.weights == int(2.5 * GIB)
    assert planned().to_json()["per_gpu"]["offloaded_bytes"] == 0


def test_the_vocabulary_stays_on_the_gpu() -> None:
    found = planned(vllm_cpu_offload_gb=60).budget
    assert found is not None
    model = planned().setup
    assert model is not None
    architecture = model.architecture
    assert found.weights == 2 * architecture.vocab * architecture.hidden * 2


def test_the_ram_must_hold_it_for_each_gpu() -> None:
    assert planned("a6000x2", vllm_cpu_offload_gb=4, hardware_ram_gib=16).fits
    (refusal,) = planned("a6000x2", vllm_cpu_offload_gb=12, hardware_ram_gib=16).refusals
    assert refusal.kind == "offload"
    assert "24.0 GiB of weights in RAM (`vllm_cpu_offload_gb` of each GPU) do not fit in `hardware_ram_gib` 16" in (
        refusal.reason
    )
    assert refusal.instead == "write a smaller `vllm_cpu_offload_gb`, or take more RAM"
    (refusal,) = planned("a6000x2", vllm_cpu_offload_gb=4, hardware_ram_gib=16, lmcache_l1_size_gib=8).refusals
    assert "and 8.7 GiB to keep KV do not fit" in refusal.reason


def test_the_processors_engine_has_nothing_to_offload_from() -> None:
    assert planned("cpu", vllm_cpu_offload_gb=1).budget == planned("cpu").budget


def test_no_size_is_named() -> None:
    with pytest.raises(PresetError, match="`vllm_cpu_offload_gb` is '-1'"):
        planned(vllm_cpu_offload_gb=-1)
    with pytest.raises(PresetError, match="`cpu_offload_gb` is 'much'"):
        planned(vllm_extra_settings={"cpu_offload_gb": "much"})
