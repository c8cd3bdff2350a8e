"""Times and tiers: the formulas by hand, on models whose numbers are round."""

import pytest

from infbox.catalogue.models import catalogue_model
from infbox.planner.setup import Setup, read_setup
from infbox.planner.speed import file_bytes, kv_load_seconds, load_seconds, prefill_seconds, tier_tokens


def setup(source: str, gpus: str, **more: object) -> Setup:
    model = catalogue_model(source)
    assert model is not None
    return read_setup({"model_source": source, "hardware_gpus": gpus, **more}, model)


def test_prefill_is_two_operations_a_weight_and_token_and_four_a_pair_of_positions() -> None:
    # Llama 3.1 8B: 7.504 B weights without the embedding; 32 layers x 32 heads x 128
    tokens = 32_768
    weights = 2 * 7.504e9 * tokens
    pairs = 4 * 32 * 32 * 128 * tokens * tokens / 2
    found = prefill_seconds(setup("meta-llama/Llama-3.1-8B-Instruct", "1xH100"), tokens)
    assert found == pytest.approx((weights + pairs) / (0.5 * 989e12), rel=0.001)


def test_gpus_of_one_engine_read_together() -> None:
    one = prefill_seconds(setup("meta-llama/Llama-3.1-8B-Instruct", "1xL40S"), 8192)
    four = prefill_seconds(
        setup("meta-llama/Llama-3.1-8B-Instruct", "4xL40S", vllm_tensor_parallel_size=4), 8192
    )  # fmt: skip
    assert one is not None
    assert four == pytest.approx(one / 4)


def test_idle_experts_cost_no_time() -> None:
    dense = prefill_seconds(setup("Qwen/Qwen2.5-Coder-32B-Instruct", "1xH200"), 8192)
    sparse = prefill_seconds(setup("Qwen/Qwen3-Coder-30B-A3B-Instruct", "1xH200"), 8192)
    assert dense is not None
    assert sparse is not None
    assert sparse < dense / 5


def test_sliding_layers_cost_less_in_a_long_context() -> None:
    twice = [prefill_seconds(setup("openai/gpt-oss-20b", "1xH100"), tokens) for tokens in (65_536, 131_072)]
    assert twice[0] is not None
    assert twice[1] is not None
    assert 2 < twice[1] / twice[0] < 4


def test_the_processors_speed_is_not_known() -> None:
    assert prefill_seconds(setup("HuggingFaceTB/SmolLM2-135M-Instruct", ""), 8192) is None


def test_loading_is_bytes_by_bandwidth() -> None:
    dev32 = setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S")
    assert file_bytes(dev32) == 19_330_000_000
    # gp3 as it comes has 125 MB/s: docs.aws.amazon.com/ebs, general purpose SSD volumes
    assert load_seconds(dev32) == pytest.approx({"gp3": 154.64, "gp3 at its fastest": 19.33, "NVMe": 6.443}, rel=0.001)


def test_reloading_kv_is_its_bytes_by_bandwidth_and_each_gpu_takes_its_part() -> None:
    one = kv_load_seconds(setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S"), 100_000)
    assert one["RAM"] == pytest.approx(26.2144 / 20)
    assert one["gp3 at its fastest"] == pytest.approx(26.2144)
    four = kv_load_seconds(
        setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "4xL40S", vllm_tensor_parallel_size=4), 100_000
    )  # fmt: skip
    assert four["RAM"] == pytest.approx(one["RAM"] / 4)
    assert four["NVMe"] == one["NVMe"]  # the disk is one


def test_tiers_hold_half_of_the_ram_and_what_the_model_leaves_of_the_disk() -> None:
    found = tier_tokens(
        setup(
            "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S", hardware_ram_gib=64, storage_data_size_gib=200
        )
    )  # fmt: skip
    assert found["RAM"] == 32 * 2**30 // 262_144
    assert found["disk"] == int((0.9 * 200 * 2**30 - 19.33e9) / 262_144)


def test_tiers_that_there_are_hold_what_they_are_given() -> None:
    given = {"lmcache_l1_size_gib": 16, "redis_maxmemory_gib": 0.5, "lmcache_l2_size_gib": 100}
    found = tier_tokens(setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S", **given))
    assert found == {"RAM": int(16.5 * 2**30 / 262_144), "disk": 100 * 2**30 // 262_144}


def test_a_disk_that_the_model_fills_holds_no_kv() -> None:
    small = setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S", storage_data_size_gib=10)
    assert tier_tokens(small)["disk"] == 0


def test_the_instances_own_disk_counts_where_it_is_larger() -> None:
    found = setup("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S", hardware_aws_instance_type="g6e.2xlarge")
    assert found.disk_gib == int(450e9 / 2**30)
