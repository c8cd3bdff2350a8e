"""Why a setup cannot work, each reason in one sentence. What would work instead is `advice`'s.

Each check is vLLM 0.32's own, made before a machine is paid for; the docstrings say where vLLM has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import yaml

from infbox.catalogue.config import rope_type
from infbox.planner.memory import CONTEXT, GIB, Budget, cpu_budget, gpu_budget
from infbox.planner.setup import WIDTHS, Setup

# Most that YaRN is trained and recommended for, on the models of the catalogue: four times the native context.
YARN_FACTOR = 4


@dataclass(frozen=True)
class Fault:
    """A reason why a setup cannot work. `kind` is for programs, and for the search of what would."""

    kind: str
    reason: str


def budget(setup: Setup) -> Budget:
    """The memory of one GPU, or of the RAM."""
    if setup.gpus is None:
        return cpu_budget(
            setup.architecture,
            ram=setup.ram_gib * GIB - setup.kept_ram_bytes,
            kv_space=setup.cpu_kv_gib * GIB,
            bytes_16=setup.kv_bytes,
            block_tokens=setup.block,
        )
    return gpu_budget(
        setup.architecture,
        setup.parallel,
        setup.batch,
        usable=setup.gpus.gpu.usable_bytes,
        utilization=setup.utilization,
        eager=setup.eager,
        bytes_16=setup.bytes_16,
        bytes_a_value=setup.kv_bytes,
        block_tokens=setup.block,
        offload=setup.offload_bytes,
    )


def faults(setup: Setup) -> list[Fault]:
    """Every reason why the setup cannot work; those of memory only where the model can be divided at all."""
    found = [*_formats(setup), *_division(setup), *_context(setup)]
    if any(fault.kind in ("heads", "pipeline") for fault in found):
        return found
    return [*found, *_memory(setup)]


def native_context(setup: Setup) -> int:
    """The context that the model has without further settings, `hf_overrides` included."""
    override: Any = setup.overrides.get("max_position_embeddings")
    return override if type(override) is int and override > 0 else setup.architecture.context


def _formats(setup: Setup) -> Iterator[Fault]:
    """Number formats: `ModelConfig` and `Platform.check_if_supports_dtype`, `get_min_capability`."""
    if setup.kv_dtype not in WIDTHS:
        yield Fault("kv-dtype", f"`vllm_kv_cache_dtype` is {setup.kv_dtype}, and a KV cache has 16 bits or more here")
    if setup.dtype not in WIDTHS:
        yield Fault("dtype", f"`vllm_dtype` is {setup.dtype}, which the engine does not know")
    if setup.gpus is None:
        return
    gpu, quantization = setup.gpus.gpu, setup.architecture.quantization
    capability = f"{gpu.name} has compute capability {gpu.compute_capability}"
    if setup.dtype == "bfloat16" and not gpu.has_bf16:
        yield Fault("dtype", f"{capability}, and `vllm_dtype: bfloat16` needs 8.0")
    if gpu.capability < quantization.minimum_capability:
        needed = quantization.minimum_capability / 10
        yield Fault("quantization", f"{capability}, and the engine runs {quantization.name} weights from {needed} up")


def _division(setup: Setup) -> Iterator[Fault]:
    """What has to divide: `ModelConfig.verify_with_parallel_config`, `validate_fp8_block_shape` and their like."""
    model, parallel = setup.architecture, setup.parallel
    tensor = parallel.tensor
    if model.heads % tensor:
        yield Fault(
            "heads", f"the model's {model.heads} attention heads do not divide by `vllm_tensor_parallel_size` {tensor}"
        )
    elif not model.latent and model.kv_heads % tensor and tensor % model.kv_heads:
        yield Fault(
            "heads",
            f"the model's {model.kv_heads} KV heads and `vllm_tensor_parallel_size` {tensor} do not divide, "
            "one by the other",
        )
    else:
        yield from _blocks(setup)
    if parallel.pipeline > model.layers:
        yield Fault(
            "pipeline", f"`vllm_pipeline_parallel_size` is {parallel.pipeline}, and the model has {model.layers} layers"
        )
    there = setup.gpus.count * setup.nodes if setup.gpus else 1
    if parallel.world > there:
        yield Fault(
            "world",
            f"tensor {tensor} by pipeline {parallel.pipeline} by data parallel {parallel.data} is {parallel.world} "
            f"{'GPUs' if setup.gpus else 'devices'}, and there {'are' if there > 1 else 'is'} {there}",
        )


def _blocks(setup: Setup) -> Iterator[Fault]:
    model, parallel, quantization = setup.architecture, setup.parallel, setup.architecture.quantization
    unit = max(quantization.block) or quantization.group
    if not unit or quantization.method == "mxfp4":  # vLLM pads MXFP4
        return
    what = f"{quantization.name} {'blocks' if max(quantization.block) else 'groups'} of {unit}"
    tensor = parallel.tensor
    sizes: list[tuple[str, int, int]] = []
    if model.experts and model.experts.layers:
        sliced = 1 if parallel.experts else tensor
        sizes.append(("an expert's intermediate size", model.experts.intermediate, sliced))
        if model.experts.shared_intermediate:
            sizes.append(("the shared experts' intermediate size", model.experts.shared_intermediate, tensor))
    if not model.experts or model.experts.layers < model.layers:
        sizes.append(("the intermediate size", model.intermediate, tensor))
    if not quantization.experts_only and not model.latent:
        sizes.append(("the attention's output", model.heads * model.head_dim, tensor))
        if max(quantization.block):
            heads = max(model.kv_heads, tensor)  # copies, where there are more GPUs
            sizes.append(("the keys", heads * model.head_dim, tensor))
    for name, size, parts in sizes:
        whole = parts == 1 and not max(quantization.block)
        if not whole and (size % parts or (size // parts) % unit):
            each = f"{size / parts:g}"
            yield Fault(
                "blocks",
                f"{name} of {size}, divided by `vllm_tensor_parallel_size` {parts}, is {each}, not whole {what}",
            )
            return


def _context(setup: Setup) -> Iterator[Fault]:
    """The context against the native one: `_get_and_verify_max_len`, which YaRN alone does not satisfy."""
    native = native_context(setup)
    if setup.context > native:
        yield Fault(
            "context",
            f"`vllm_max_model_len` is {setup.context:,} tokens, and the model's native context is {native:,}"
            + (
                ": `hf_overrides` has YaRN, and max_position_embeddings is left as it was"
                if rope_type(_rope(setup)) == "yarn"
                else ""
            ),
        )
    elif setup.context <= setup.architecture.context:
        return
    elif rope_type(_rope(setup)) != "yarn":
        yield Fault(
            "context",
            f"`vllm_max_model_len` is {setup.context:,} tokens, and the model's native context is "
            f"{setup.architecture.context:,}: `hf_overrides` raises max_position_embeddings without YaRN",
        )
    elif (_rope(setup) or {}).get("rope_theta", 10000.0) != setup.architecture.rope_theta:
        yield Fault(
            "context",
            "`hf_overrides` replaces the model's rope_parameters whole, and without its rope_theta "
            f"{setup.architecture.rope_theta:g} the answers are noise",
        )


def _rope(setup: Setup) -> dict[str, Any] | None:
    rope: Any = setup.overrides.get("rope_parameters") or setup.overrides.get("rope_scaling")
    return cast(dict[str, Any], rope) if isinstance(rope, dict) else None


def yarn_lines(setup: Setup) -> str:
    """The lines of a preset that stretch the native context by YaRN, so that vLLM takes `setup.context`."""
    native = setup.architecture.context
    factor = -(-setup.context // native)
    return (
        "vllm_extra_settings:\n"
        "  hf_overrides:\n"
        f"    max_position_embeddings: {native * factor}\n"
        "    rope_parameters:\n"
        "      rope_type: yarn\n"
        f"      factor: {factor:.1f}\n"
        f"      original_max_position_embeddings: {native}\n"
        f"      rope_theta: {setup.architecture.rope_theta:.1f}"
    )


def yarn_overrides(setup: Setup) -> dict[str, Any]:
    """What `yarn_lines` says, as `hf_overrides` has it."""
    return yaml.safe_load(yarn_lines(setup))["vllm_extra_settings"]["hf_overrides"]


def gib(size: float) -> str:
    """Bytes for a person."""
    return f"{size / GIB:.1f} GiB"


def _memory(setup: Setup) -> Iterator[Fault]:
    """Whether the weights fit and one sequence of the full context does: `_check_enough_kv_cache_memory`."""
    found = budget(setup)
    if setup.gpus is None:
        if found.share > found.total:
            kinds = f"{gib(found.weights)} of weights, {setup.cpu_kv_gib} GiB of KV cache and {gib(found.activations)}"
            kept = f", beside {gib(setup.kept_ram_bytes)} to keep KV," if setup.kept_ram_bytes else ""
            reason = f"{kinds} for the engine itself{kept} do not fit in `hardware_ram_gib` {setup.ram_gib}"
            yield Fault("weights", reason)
    else:
        offloaded = found.offloaded * min(setup.gpus.count, setup.parallel.world)
        if offloaded and offloaded + setup.kept_ram_bytes > setup.ram_gib * GIB:
            kept = f" and {gib(setup.kept_ram_bytes)} to keep KV" if setup.kept_ram_bytes else ""
            reason = f"{gib(offloaded)} of weights in RAM (`vllm_cpu_offload_gb` of each GPU){kept} do not fit"
            yield Fault("offload", f"{reason} in `hardware_ram_gib` {setup.ram_gib}")
        elif setup.kept_ram_bytes > setup.ram_gib * GIB:
            reason = f"{gib(setup.kept_ram_bytes)} to keep KV (`lmcache_l1_size_gib`, `redis_maxmemory_gib`) do not fit"
            yield Fault("kept", f"{reason} in `hardware_ram_gib` {setup.ram_gib}")
        free = (1 - setup.utilization) * found.total
        if free < CONTEXT:
            yield Fault(
                "share",
                f"`vllm_gpu_memory_utilization` {setup.utilization:g} leaves {gib(free)} of a {setup.gpus.gpu.name}, "
                f"and CUDA itself takes {gib(CONTEXT)} outside the engine's share",
            )
    longest = found.layout.longest(found.blocks)
    if longest >= setup.context:
        return
    on = f"on {setup.gpus.gpu.name}" if setup.gpus else "in RAM"
    if longest < found.layout.block_tokens:
        yield Fault(
            "weights",
            f"{gib(found.weights)} of weights and {gib(found.activations + found.graphs + found.outside)} to compute "
            f"with leave no room for a KV cache in the engine's {gib(found.share)} {on}",
        )
    else:
        yield Fault(
            "memory",
            f"{gib(found.kv)} are left for KV cache {on}, which is {longest:,} tokens, "
            f"fewer than `vllm_max_model_len` {setup.context:,}",
        )
