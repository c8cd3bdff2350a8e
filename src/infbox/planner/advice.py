"""What would work instead: a search over small changes of a setup, and nothing is proposed that the checks refuse.

`repaired` first undoes what has one way to be undone (a KV cache below 16 bits, bf16 without hardware, a context
beyond the native one). From there `changes` are tried, one at a time, each with the context lowered if only that is
missing; what passes every check is told.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from infbox.catalogue.gpus import Gpus, gpus
from infbox.catalogue.models import variants
from infbox.planner.checks import YARN_FACTOR, Fault, budget, faults, yarn_lines, yarn_overrides
from infbox.planner.setup import Setup
from infbox.planner.sizes import Parallel

MOST_GPUS = 8
HIGHEST_SHARE = 0.95
LEAST_CONTEXT = 4096
# A context that is proposed is a multiple of it.
CONTEXT_STEP = 512
TOLD = 3


@dataclass(frozen=True)
class Change:
    """A setup that works, and how to get it: what to write. `kind` keeps likes of it from being told twice.

    `lower`: it may be proposed with a lower context too.
    """

    setup: Setup
    how: str
    kind: str
    lower: bool = True


def instead(setup: Setup, fault: Fault) -> str:
    """One sentence that says what would work, for one of the setup's faults."""
    if direct := _direct(setup, fault):
        return direct
    mended = repaired(setup)
    if mended != setup and not faults(mended):
        return "nothing more: with the above mended, it fits"
    found = _distinct(working(mended, fault))
    if not found:
        return "nothing near it works in the catalogue: take a smaller model, or larger GPUs"
    return "; or ".join(change.how for change in found[:TOLD])


def working(setup: Setup, fault: Fault) -> Iterator[Change]:
    """Changes after which nothing is refused any more, the least first; those that shorten the context last."""
    changes = list(_changes(setup, fault))
    yield from (change for change in changes if change.how and not faults(change.setup))
    yield from (lowered for change in changes if change.lower and (lowered := with_context(change)))


def repaired(setup: Setup) -> Setup:
    """The setup without what has one way to be undone."""
    kinds = {fault.kind for fault in faults(setup)}
    if "kv-dtype" in kinds:
        setup = replace(setup, kv_dtype="auto")
    if "dtype" in kinds:
        setup = replace(setup, dtype="float16" if setup.gpus else "auto")
    if "share" in kinds:
        setup = replace(setup, utilization=_share(setup))
    if "context" in kinds:
        stretched = _stretched(setup)
        setup = stretched or replace(setup, context=setup.architecture.context, overrides={})
    return setup


def _direct(setup: Setup, fault: Fault) -> str:
    match fault.kind:
        case "kv-dtype":
            return "write `vllm_kv_cache_dtype: auto`, and plan for the KV tokens that leaves"
        case "dtype":
            return "write `vllm_dtype: float16`" if setup.gpus else "write `vllm_dtype: auto`"
        case "share":
            return f"write `vllm_gpu_memory_utilization: {_share(setup):g}`"
        case "context":
            native = setup.architecture.context
            lower = f"write `vllm_max_model_len: {native}`"
            return f"{lower}, or add these lines:\n{yarn_lines(setup)}" if _stretched(setup) else lower
        case "offload":
            return "write a smaller `vllm_cpu_offload_gb`, or take more RAM"
        case "kept":
            return f"keep {max(setup.ram_gib // 2, 1)} GiB or less, or take more RAM"
        case _:
            return ""


def _stretched(setup: Setup) -> Setup | None:
    """With YaRN, where the model takes it and vLLM would accept the context."""
    stretched = replace(setup, overrides=yarn_overrides(setup))
    beyond = setup.context > YARN_FACTOR * setup.architecture.context
    return None if beyond or any(fault.kind == "context" for fault in faults(stretched)) else stretched


def _share(setup: Setup) -> float:
    """The highest share, in hundredths, that leaves CUDA what it needs."""
    shares = (hundredths / 100 for hundredths in range(round(setup.utilization * 100), 9, -1))
    return next(share for share in shares if not _has(replace(setup, utilization=share), "share"))


def _has(setup: Setup, kind: str) -> bool:
    return any(fault.kind == kind for fault in faults(setup))


def longest_context(setup: Setup) -> int:
    """The longest context that the memory holds, in tokens, whatever the model takes; 0: none."""
    found = budget(setup)
    return found.layout.longest(found.blocks)


def with_context(change: Change) -> Change | None:
    """The change with the context lowered to what the memory holds, if that is all that is missing."""
    if {fault.kind for fault in faults(change.setup)} != {"memory"}:
        return None
    lower = min(longest_context(change.setup), change.setup.architecture.context) // CONTEXT_STEP * CONTEXT_STEP
    lowered = replace(change.setup, context=lower, overrides={})
    if lower < LEAST_CONTEXT or faults(lowered):
        return None
    context = f"`vllm_max_model_len: {lower}`"
    return replace(change, setup=lowered, how=f"{change.how} and {context}" if change.how else f"write {context}")


def _changes(setup: Setup, fault: Fault) -> Iterator[Change]:
    """Small changes first. What needs memory is not helped by a precision of as many bits."""
    memory = fault.kind in ("memory", "weights")
    if memory:
        yield Change(setup, "", "context")
        if setup.gpus and setup.utilization < HIGHEST_SHARE:
            share = replace(setup, utilization=HIGHEST_SHARE)
            yield Change(share, f"write `vllm_gpu_memory_utilization: {HIGHEST_SHARE}`", "share")
    if setup.gpus is None:
        yield from _rams(setup)
    if fault.kind != "quantization":
        yield from _divisions(setup)
    yield from _precisions(setup, fewer=memory)
    yield from _more_gpus(setup)
    yield from _other_gpus(setup)


def _rams(setup: Setup) -> Iterator[Change]:
    if setup.kept_ram_gib:
        none = "write `lmcache_l1_size_gib: 0` and `redis_maxmemory_gib: 0`, which keeps no KV"
        yield Change(replace(setup, kept_ram_gib=0.0), none, "kept")
    for gib in range(setup.cpu_kv_gib - 1, 0, -1):
        yield Change(replace(setup, cpu_kv_gib=gib), f"write `vllm_cpu_kvcache_space_gib: {gib}`", "kv")
    for gib in range(setup.cpu_kv_gib + 1, setup.ram_gib):
        yield Change(replace(setup, cpu_kv_gib=gib), f"write `vllm_cpu_kvcache_space_gib: {gib}`", "kv")
    for gib in (8, 16, 32, 64, 128, 256):
        if gib > setup.ram_gib:
            yield Change(
                replace(setup, ram_gib=gib), f"take a machine with {gib} GiB of RAM (`hardware_ram_gib`)", "ram"
            )


def _divisions(setup: Setup) -> Iterator[Change]:
    """Experts dealt out whole; other sizes of tensor parallelism on the same GPUs, the largest first."""
    if setup.gpus is None:
        return
    parallel = setup.parallel
    if setup.architecture.experts and not parallel.experts:
        yield Change(
            replace(setup, parallel=replace(parallel, experts=True)),
            "write `vllm_enable_expert_parallel: true`, which keeps experts whole",
            "experts",
            lower=False,
        )
    here = setup.gpus.count
    for tensor in sorted((size for size in range(1, here + 1) if size != parallel.tensor), reverse=True):
        for pipeline in {1, max(1, here * setup.nodes // tensor)}:
            spread = replace(parallel, tensor=tensor, pipeline=pipeline, data=1)
            told = f"write `vllm_tensor_parallel_size: {tensor}`"
            if pipeline > 1:
                told += f" and `vllm_pipeline_parallel_size: {pipeline}`"
            yield Change(replace(setup, parallel=spread), told, "division", lower=False)


def _precisions(setup: Setup, *, fewer: bool) -> Iterator[Change]:
    """The model's other precisions in the catalogue, the most bits first, with experts whole where that helps."""
    bits = setup.architecture.quantization.bits
    for other in variants(setup.model):
        if fewer and other.architecture.quantization.bits >= bits:
            continue
        told = f"take {other.architecture.quantization.name} weights, `model_source: {_source(other.name)}`"
        kind = other.architecture.quantization.name
        yield Change(replace(setup, model=other), told, kind)
        if setup.architecture.experts and not setup.parallel.experts:
            whole = replace(setup, model=other, parallel=replace(setup.parallel, experts=True))
            yield Change(whole, f"{told}, with `vllm_enable_expert_parallel: true`", kind)


def _more_gpus(setup: Setup) -> Iterator[Change]:
    if setup.gpus is None:
        return
    for count in range(setup.gpus.count + 1, MOST_GPUS + 1):
        if count & (count - 1) == 0:  # machines have 1, 2, 4 or 8
            yield from _on(setup, Gpus(count, setup.gpus.gpu), "more GPUs")


def _other_gpus(setup: Setup) -> Iterator[Change]:
    """As many GPUs of another kind, the smallest first."""
    if setup.gpus is None:
        return
    larger = sorted(gpus().values(), key=lambda gpu: (gpu.memory_gb, -gpu.capability))
    for gpu in larger:
        if gpu.memory_gb >= setup.gpus.gpu.memory_gb and gpu.name != setup.gpus.gpu.name:
            yield from _on(setup, Gpus(setup.gpus.count, gpu), "other GPUs")


def _on(setup: Setup, on: Gpus, kind: str) -> Iterator[Change]:
    """The setup on other GPUs; data parallelism stays what it was."""
    data = setup.parallel.data
    tensor = max(1, on.count // data // setup.parallel.pipeline)
    parallel = setup.parallel if setup.gpus and on.count == setup.gpus.count else None
    for experts in dict.fromkeys((setup.parallel.experts, setup.architecture.experts is not None)):
        spread = parallel or Parallel(tensor=tensor, pipeline=setup.parallel.pipeline, data=data, experts=experts)
        told = f"take {on}"
        if spread.tensor != setup.parallel.tensor:
            told += f" with `vllm_tensor_parallel_size: {spread.tensor}`"
        if spread.experts and not setup.parallel.experts:
            told += " and `vllm_enable_expert_parallel: true`"
        yield Change(replace(setup, gpus=on, parallel=spread), told, kind)


def _distinct(changes: Iterator[Change]) -> list[Change]:
    """The first changes, one of a kind; a shorter context before others where it is among them."""
    found: dict[str, Change] = {}
    for change in changes:
        found.setdefault(change.kind, change)
    return sorted(found.values(), key=lambda change: change.kind != "context")[:TOLD]


def _source(name: str) -> str:
    return name if ":" in name else f"hf:{name}"
