"""What of a GPU's memory is left for the KV cache, and how many tokens that is: as vLLM 0.32 counts it.

The engine takes a share of the card (`gpu_memory_utilization`). Weights, what is allocated while a full batch is
computed, CUDA graphs and memory outside torch come out of that share; KV blocks get the rest (`gpu_worker.py`,
`determine_available_memory`; CUDA graphs count since `VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS` is on by default).
"""

from dataclasses import dataclass

from infbox.catalogue.config import Architecture
from infbox.planner.sizes import Parallel, kv_bytes_a_layer, stages, vocabulary_bytes, weight_bytes

GIB = 2**30
BLOCK_TOKENS_GPU = 16
BLOCK_TOKENS_CPU = 128

# The logits of a full batch in float32, their sorted copy, and its indices in 64 bits: what the sampler holds when
# vLLM measures it. Against what vLLM 0.19 reports on an H100 with 1,024 sequences (llm-d-planner's calibration): Llama
# 3 1.89 GiB, here 2.1; Qwen2 2.25, here 2.4; Gemma 3 3.94, here 4.1; Qwen3-30B-A3B 2.68, here 2.9; Mixtral 1.21, here
# 1.9.
_SAMPLER_BYTES = 16
# Outside torch, from the same measurements: 0.27 GiB on one GPU, 2.10 where several talk to each other.
_OUTSIDE_ONE = 0.3 * GIB
_OUTSIDE_SEVERAL = 2.1 * GIB
# CUDA graphs: measured 0.10 to 0.41 GiB on dense models, 0.39 and 1.03 GiB on gpt-oss (llm-d-benchmark).
_GRAPHS_DENSE = 0.4 * GIB
_GRAPHS_EXPERTS = 1.0 * GIB
# The engine on a CPU beside weights and KV cache: its three processes had 4.25 GiB of their own with SmolLM2-135M in
# float32 (0.50) and 2 GiB of KV cache, and shared libraries come on top. vLLM 0.32, two cores.
CPU_ENGINE = 2.0 * GIB
# CUDA's own memory on a card, which vLLM has before it counts and so leaves outside its share.
CONTEXT = 0.5 * GIB


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The engine's limits: sequences at a time, and tokens in a step."""

    sequences: int
    tokens: int


def default_batch(memory_bytes: int, name: str) -> Batch:
    """vLLM's defaults for its API server (`EngineArgs.get_batch_defaults`), by the card's memory."""
    if memory_bytes >= 160 * GIB:
        return Batch(sequences=1024, tokens=16384)
    if memory_bytes >= 70 * GIB and not name.startswith("A100"):
        return Batch(sequences=1024, tokens=8192)
    return Batch(sequences=256, tokens=2048)


def activation_bytes(model: Architecture, parallel: Parallel, batch: Batch, bytes_16: int = 2) -> int:
    """What a full batch takes at its peak on one GPU.

    Sampling and the layers come one after the other, so the larger counts; the hidden states live through both, and
    the workspace of the experts stays.
    """
    residual = 2 * batch.tokens * model.hidden * bytes_16
    sampler = min(batch.sequences, batch.tokens) * model.vocab * _SAMPLER_BYTES
    attention = (model.heads + 2 * model.kv_heads) * model.head_dim / parallel.tensor
    widest = max(attention, 3 * model.intermediate / parallel.tensor)
    layer = batch.tokens * (widest + model.hidden) * bytes_16
    workspace = 0.0
    if experts := model.experts:
        size = experts.intermediate / (1 if parallel.experts else parallel.tensor)
        row = max(2 * size, model.hidden) + max(size, model.hidden)
        workspace = batch.tokens * experts.active * row * bytes_16
        layer = batch.tokens * (attention + model.hidden) * bytes_16
    return round(residual + max(sampler, layer) + workspace)


def other_bytes(model: Architecture, parallel: Parallel, *, eager: bool) -> tuple[int, int]:
    """(CUDA graphs, memory outside torch) of one GPU."""
    graphs = 0.0 if eager else _GRAPHS_EXPERTS if model.experts else _GRAPHS_DENSE
    several = parallel.tensor * parallel.pipeline > 1 or (parallel.experts and parallel.data > 1)
    return round(graphs), round(_OUTSIDE_SEVERAL if several else _OUTSIDE_ONE)


@dataclass(frozen=True, kw_only=True)
class KvLayout:
    """How KV blocks are laid out on one GPU: vLLM pools blocks of `layers` layers for all groups of layers.

    A model whose layers are alike is one group. One with full and sliding layers is several of equal size (the
    smaller of the two counts, or the larger where they are nearly equal), each with blocks of its own for a sequence
    (`kv_cache_utils._get_kv_cache_groups_uniform_page_size`). `in_flight` are the tokens of batches that run at a time
    (`VllmConfig.max_in_flight_tokens`, with asynchronous scheduling): a sliding layer frees their blocks only after.
    """

    block_tokens: int
    block_bytes: int
    full_groups: int
    sliding_groups: int
    window: int
    in_flight: int

    def blocks_of(self, tokens: int) -> int:
        """Blocks that one sequence of that many tokens takes."""
        full = self.full_groups * -(-tokens // self.block_tokens)
        kept = min(self.window - 1 + self.in_flight, tokens)
        return full + self.sliding_groups * (-(-kept // self.block_tokens) + 1)

    def longest(self, blocks: int) -> int:
        """The longest sequence that so many blocks hold, in tokens."""
        low, high = 0, 2**31
        if self.full_groups == 0:
            return high if self.blocks_of(high) <= blocks else 0
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks_of(middle) <= blocks else (low, middle - 1)
        return low


def kv_layout(
    model: Architecture, parallel: Parallel, stage: int, *, bytes_a_value: int, block_tokens: int, batch_tokens: int
) -> KvLayout:
    """The layout on one GPU of a pipeline stage, whose layers are of both kinds in the model's proportion."""
    here = stages(model.layers, parallel.pipeline)[stage]
    sliding = round(here * model.sliding_layers / model.layers)
    full = here - sliding
    page = block_tokens * kv_bytes_a_layer(model, parallel.tensor, bytes_a_value)
    if full and sliding:
        small, large = sorted((full, sliding))
        size = large if large < 1.5 * small else small
    else:
        size = here
    return KvLayout(
        block_tokens=block_tokens,
        block_bytes=page * size,
        full_groups=-(-full // size),
        sliding_groups=-(-sliding // size),
        window=model.window or 1,
        in_flight=batch_tokens * (parallel.pipeline + 1),
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One GPU's memory, or the RAM of an engine on the CPU, in bytes. `kv` is negative where weights are too large;
    `offloaded` are weights that stay in RAM, and are none of `weights`."""

    total: int
    share: int
    weights: int
    activations: int
    graphs: int
    outside: int
    layout: KvLayout
    offloaded: int = 0

    @property
    def kv(self) -> int:
        return self.share - self.weights - self.activations - self.graphs - self.outside

    @property
    def blocks(self) -> int:
        return max(0, self.kv // self.layout.block_bytes)


def gpu_budget(
    model: Architecture,
    parallel: Parallel,
    batch: Batch,
    *,
    usable: int,
    utilization: float,
    eager: bool,
    bytes_16: int = 2,
    bytes_a_value: int = 2,
    block_tokens: int = BLOCK_TOKENS_GPU,
    offload: int = 0,
) -> Budget:
    """The budget of the tightest pipeline stage. `offload`: bytes of the layers' weights that each GPU may leave in RAM
    (`UVAOffloader`); the vocabulary's are none of them."""
    activations = activation_bytes(model, parallel, batch, bytes_16)
    graphs, outside = other_bytes(model, parallel, eager=eager)
    weights = [weight_bytes(model, parallel, stage, bytes_16=bytes_16) for stage in range(parallel.pipeline)]
    offloaded = [
        min(offload, weights[stage] - vocabulary_bytes(model, parallel, stage, bytes_16=bytes_16))
        for stage in range(parallel.pipeline)
    ]
    budgets = [
        Budget(
            total=usable,
            share=int(usable * utilization),
            weights=weights[stage] - offloaded[stage],
            offloaded=offloaded[stage],
            activations=activations,
            graphs=graphs,
            outside=outside,
            layout=kv_layout(
                model, parallel, stage,
                bytes_a_value=bytes_a_value, block_tokens=block_tokens, batch_tokens=batch.tokens,
            ),
        )
        for stage in range(parallel.pipeline)
    ]  # fmt: skip
    return min(budgets, key=lambda budget: (budget.blocks, budget.kv))


def cpu_budget(model: Architecture, *, ram: int, kv_space: int, bytes_16: int, block_tokens: int) -> Budget:
    """The budget of an engine on the CPU: its KV cache is as large as it is told, and the RAM must hold all."""
    layout = kv_layout(
        model, Parallel(), 0, bytes_a_value=bytes_16, block_tokens=block_tokens, batch_tokens=2048
    )  # fmt: skip
    weights = weight_bytes(model, bytes_16=bytes_16)
    activations = round(CPU_ENGINE)
    return Budget(
        total=ram,
        share=weights + activations + kv_space,
        weights=weights,
        activations=activations,
        graphs=0,
        outside=0,
        layout=layout,
    )
