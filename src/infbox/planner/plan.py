"""The plan of a setup: every number a person asks for, what is refused and why, and notes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from infbox.planner import speed
from infbox.planner.advice import HIGHEST_SHARE, instead, longest_context
from infbox.planner.checks import budget, faults, gib, native_context
from infbox.planner.memory import Budget
from infbox.planner.precision import precision_notes
from infbox.planner.setup import Setup
from infbox.planner.sizes import kv_bytes_a_token, parameters


@dataclass(frozen=True)
class Refusal:
    """Why a setup cannot work, and what would instead; one sentence each. `kind` is for programs."""

    kind: str
    reason: str
    instead: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What comes of a setup. `checked` is False where nothing could be: then `fits` is True and a note says why."""

    fits: bool
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    checked: bool = True
    preset: str = ""
    setup: Setup | None = None
    budget: Budget | None = None
    kv_tokens: int = 0
    longest_context: int = 0

    @property
    def full_contexts(self) -> float:
        """How many sequences of the full context one engine holds at a time."""
        return self.kv_tokens / self.setup.context if self.setup else 0.0

    def to_json(self) -> dict[str, Any]:
        """For programs. Sizes are in bytes, times in seconds, contexts in tokens; per GPU where the name says so."""
        head: dict[str, Any] = {
            "preset": self.preset,
            "fits": self.fits,
            "checked": self.checked,
            "refusals": [dataclasses.asdict(refusal) for refusal in self.refusals],
            "notes": list(self.notes),
        }
        if self.setup is None or self.budget is None:
            return head
        setup, found, model = self.setup, self.budget, self.setup.architecture
        return head | {
            "model": {
                "name": setup.model.name,
                "parameters": round(parameters(model)),
                "precision": model.quantization.name,
                "layers": model.layers,
                "heads": model.heads,
                "kv_heads": model.kv_heads,
                "head_dim": model.head_dim,
                "native_context": model.context,
                "weight_files_bytes": speed.file_bytes(setup),
                "tool_call_parser": setup.model.tool_call_parser,
            },
            "gpus": str(setup.gpus or ""),
            "nodes": setup.nodes,
            "tensor_parallel_size": setup.parallel.tensor,
            "pipeline_parallel_size": setup.parallel.pipeline,
            "data_parallel_size": setup.parallel.data,
            "enable_expert_parallel": setup.parallel.experts,
            "gpu_memory_utilization": setup.utilization,
            "context": setup.context,
            "per_gpu": {
                "memory_bytes": found.total,
                "share_bytes": found.share,
                "weights_bytes": found.weights,
                "offloaded_bytes": found.offloaded,
                "activations_bytes": found.activations,
                "cuda_graphs_bytes": found.graphs,
                "outside_torch_bytes": found.outside,
                "kv_bytes": max(0, found.kv),
            },
            "kv_bytes_per_token": kv_bytes_a_token(model, setup.kv_bytes),
            "kv_block_tokens": found.layout.block_tokens,
            "kv_blocks": found.blocks,
            "kv_tokens": self.kv_tokens,
            "longest_context": self.longest_context,
            "full_contexts": round(self.full_contexts, 2),
            "workspace_tokens": setup.workspace_tokens,
            "tier_tokens": speed.tier_tokens(setup),
            "prefill_seconds": speed.prefill_seconds(setup, setup.context),
            "load_seconds": speed.load_seconds(setup),
            "kv_load_seconds": speed.kv_load_seconds(setup, setup.context),
        }


def unchecked(why: str) -> Plan:
    """The plan of what cannot be looked at: it refuses nothing."""
    return Plan(fits=True, checked=False, notes=(f"not checked: {why}",))


def make_plan(setup: Setup, preset: str = "", assumed: tuple[str, ...] = ()) -> Plan:
    """Plan a setup. `assumed` are notes on what was not told."""
    found = faults(setup)
    refusals = tuple(Refusal(fault.kind, fault.reason, instead(setup, fault)) for fault in found)
    if any(fault.kind in ("heads", "pipeline") for fault in found):
        return Plan(fits=False, refusals=refusals, notes=assumed, preset=preset, setup=setup)
    memory = budget(setup)
    longest = longest_context(setup)
    return Plan(
        fits=not found,
        refusals=refusals,
        notes=(*assumed, *_notes(setup, longest), *precision_notes(setup)),
        preset=preset,
        setup=setup,
        budget=memory,
        kv_tokens=kv_tokens(setup, memory),
        longest_context=min(longest, native_context(setup)),
    )


def kv_tokens(setup: Setup, found: Budget) -> int:
    """Tokens of KV cache of one engine, as vLLM's start says it: full contexts that fit, times their length.

    With one kind of layers that is the blocks' tokens, up to the last block of a context.
    """
    blocks = found.layout.blocks_of(setup.context)
    if found.layout.full_groups == 1 and not found.layout.sliding_groups:
        return found.blocks * found.layout.block_tokens
    return int(found.blocks / blocks * setup.context)


def _notes(setup: Setup, longest: int) -> list[str]:
    model, parallel = setup.architecture, setup.parallel
    notes: list[str] = []
    if setup.gpus:
        gpu, there = setup.gpus.gpu, setup.gpus.count * setup.nodes
        if parallel.world < there:
            notes.append(f"{there - parallel.world} of {there} GPUs stay idle: raise `vllm_data_parallel_size`")
        if parallel.tensor > setup.gpus.count:
            notes.append(
                f"tensor parallel {parallel.tensor} goes over the network between nodes, once a layer: "
                f"{setup.gpus.count} within a host and pipeline parallel between hosts is faster"
            )
        if model.quantization.is_fp8 and not gpu.has_fp8:
            notes.append(
                f"{gpu.name} has no FP8 arithmetic (compute capability {gpu.compute_capability}, it begins with 8.9): "
                "weights stay in FP8 and are computed with in 16 bits"
            )
        if setup.dtype == "auto" and model.dtype == "bfloat16" and not gpu.has_bf16:
            notes.append(f"{gpu.name} has no bf16; the engine falls back to float16")
        if offloaded := budget(setup).offloaded:
            steps = speed.RAM_GB_S * 1e9 / offloaded
            limit = "" if model.experts else f": {steps:.1f} steps a second at most, each a token of every sequence"
            notes.append(f"{gib(offloaded)} of each GPU's weights stay in RAM, read over PCIe at every step{limit}")
        if setup.utilization > HIGHEST_SHARE:
            notes.append(f"a share above {HIGHEST_SHARE} leaves little for anything else on the card")
    if not model.latent and parallel.tensor > model.kv_heads:
        notes.append(
            f"{model.kv_heads} KV heads on {parallel.tensor} GPUs: each is held {parallel.tensor // model.kv_heads} "
            "times, so more GPUs bring no more KV a GPU"
        )
    if parallel.data > 1:
        notes.append(f"numbers are of one of {parallel.data} replicas")
    if model.vision:
        notes.append("the vision part of the model is not counted")
    if setup.tool_call_parser and setup.model.tool_call_parser not in ("", setup.tool_call_parser):
        notes.append(
            f"`vllm_tool_call_parser` is {setup.tool_call_parser}; this model writes as {setup.model.tool_call_parser}"
        )
    if setup.gpus and setup.context <= longest < 2 * setup.context and longest < 16384:
        remain = f"about {round(longest, -3) // 1000}k tokens of KV remain ({gib(budget(setup).kv)})"
        notes.append(f"{remain}: one full context at a time")
    return notes
