"""GPUs, instance types and configurations, and what is said of those that there are not."""

import json
from pathlib import Path

import pytest

from infbox.catalogue import gpu, gpus, instance_type, instance_types, parse_gpus
from infbox.catalogue.config import MAX_BYTES, parse_config, read_config
from infbox.catalogue.models import catalogue_model, catalogue_names, folder_model, variants
from infbox.catalogue.quantization import parse_quantization
from infbox.errors import ModelError, PresetError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}

# --- GPUs


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("4xA100-80", "4xA100-80"),
        ("8xRTX4090", "8xRTX4090"),
        ("1xT4", "1xT4"),
        ("8xH100-80", "8xH100"),
        ("8xh100-80gb", "8xH100"),
        ("2xrtx 4090", "2xRTX4090"),
        ("L40S", "1xL40S"),
    ],
)
def test_gpus_are_written_as_a_number_and_a_name(written: str, meant: str) -> None:
    assert str(parse_gpus(written)) == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("4xA100", "say which: A100-40 or A100-80"),
        ("4xH101", "did you mean H100"),
        ("1xRTX409", "did you mean RTX4090"),
        ("4xH100-40", "it has 80: write H100"),
        ("0xH100", "0 GPUs"),
        ("65xH100", "65 GPUs"),
        ("", "write NxNAME"),
        ("8 H100", "write NxNAME"),
        ("x" * 5000, "write NxNAME"),
        ("8xH100; rm -rf /", "write NxNAME"),
    ],
)
def test_other_gpus_are_an_error_that_names_the_nearest(written: str, said: str) -> None:
    with pytest.raises(PresetError) as fault:
        parse_gpus(written)
    assert said in str(fault.value)
    assert len(fault.value.message) < 300


def test_an_engine_sees_a_little_less_of_a_card_than_nvidia_smi_does() -> None:
    for card in gpus().values():
        assert 0.96 < card.usable_mib / card.nvidia_smi_mib < 1, card.name
        assert card.nvidia_smi_mib < card.memory_gb * 1.05 * 1000**3 / 2**20 * 1.05, card.name


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [("T4", False, False), ("V100-32", False, False), ("A100-80", True, False), ("A6000", True, False),
     ("L40S", True, True), ("H100", True, True), ("RTXPRO6000", True, True)],
)  # fmt: skip
def test_formats_follow_the_compute_capability(name: str, bf16: bool, fp8: bool) -> None:
    # NVIDIA's CUDA programming guide, arithmetic by compute capability: bf16 from 8.0, FP8 from 8.9
    assert (gpu(name).has_bf16, gpu(name).has_fp8) == (bf16, fp8)


# --- instance types


def test_every_type_with_whole_gpus_names_them_as_presets_do() -> None:
    for kind in instance_types().values():
        if kind.gpu_count:
            assert parse_gpus(kind.gpus).count == kind.gpu_count
        else:
            assert kind.gpus == ""


@pytest.mark.parametrize(
    ("name", "on_it"),
    [("g6e.2xlarge", "1xL40S"), ("p4d.24xlarge", "8xA100-40"), ("p4de.24xlarge", "8xA100-80"), ("m7i.xlarge", ""),
     ("g7e.24xlarge", "4xRTXPRO6000"), ("p3dn.24xlarge", "8xV100-32"), ("g6f.large", "")],
)  # fmt: skip
def test_an_instance_type_has_these_gpus(name: str, on_it: str) -> None:
    assert instance_type(name).gpus == on_it


def test_types_can_be_told_apart_by_what_stacks_need_of_them() -> None:
    largest = instance_type("p5.48xlarge")
    assert (largest.max_efa, largest.nvme_disks, largest.arch) == (32, 8, "x86_64")
    assert "capacity-block" in largest.usage_classes
    assert "cluster" in largest.placement


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(PresetError, match=r"did you mean g6e\.2xlarge"):
        instance_type("g6e.2xlarg")


def test_aws_has_no_machine_for_the_presets_that_are_without_one() -> None:
    there = {kind.gpus for kind in instance_types().values()}
    assert not {"2xA6000", "4xA100-80", "4xH100", "1xRTX2070"} & there


# --- configurations


def test_a_folder_is_planned_by_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    found = folder_model(tmp_path)
    assert (found.architecture.layers, found.architecture.head_dim, found.weight_files_bytes) == (32, 128, 5)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b"{}",
        b" " * (MAX_BYTES + 1),
        json.dumps(CONFIG)[:-20].encode(),
    ],
)  # fmt: skip
def test_a_config_that_is_none_is_an_error_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json") as fault:
        read_config(path)
    assert fault.value.hint
    assert len(str(fault.value)) < 600


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_a_folder_that_is_none_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=folder):
        folder_model(tmp_path / folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", None), ("num_hidden_layers", "32"), ("num_hidden_layers", -1), ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9), ("num_hidden_layers", 1.5), ("num_hidden_layers", True),
        ("num_hidden_layers", [32]), ("num_hidden_layers", 10**400), ("hidden_size", float("inf")),
        ("hidden_size", 7), ("num_key_value_heads", 5), ("vocab_size", {}), ("max_position_embeddings", 0),
        ("rope_scaling", "yarn"), ("rope_scaling", {"type": "linear", "factor": "4"}),
        ("rope_scaling", {"type": "linear", "factor": 1e300}), ("quantization_config", "awq"),
        ("quantization_config", {}), ("quantization_config", {"quant_method": "exl2"}),
        ("quantization_config", {"quant_method": "awq", "bits": 5}),
        ("quantization_config", {"quant_method": "awq", "bits": "4"}),
        ("quantization_config", {"quant_method": "awq", "group_size": 0}),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [128]}),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": "128"}),
        ("quantization_config", {"quant_method": "compressed-tensors"}),
        ("quantization_config", {"quant_method": "compressed-tensors", "config_groups": {"a": []}}),
        ("layer_types", ["full_attention"]), ("layer_types", ["linear_attention"] * 32), ("num_experts_per_tok", "2"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_kind_is_named(field: str, value: object) -> None:
    config = {**CONFIG, "num_experts": 8, field: value}
    with pytest.raises(ModelError) as fault:
        parse_config(config, "its config.json")
    assert "its config.json" in fault.value.message
    assert len(str(fault.value)) < 600


@pytest.mark.parametrize(
    "config", [{"model_type": "mamba2"}, {"linear_num_key_heads": 16}, {"full_attention_interval": 4}]
)
def test_layers_that_are_not_attention_are_refused_rather_than_miscounted(config: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="cannot count"):
        parse_config({**CONFIG, **config}, "config.json")


def test_a_text_model_within_another_is_planned_and_its_vision_part_noted() -> None:
    config = {"model_type": "gemma3", "text_config": {**CONFIG, "model_type": "gemma3_text", "sliding_window": 1024},
              "vision_config": {"hidden_size": 1152}}  # fmt: skip
    found = parse_config(config, "config.json")
    assert found.vision
    assert (found.window, found.sliding_layers) == (1024, 32 - 32 // 6)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, 8192),  # these are in max_position_embeddings already
        ({"type": "yarn", "factor": 4.0}, 8192),
        ({"type": "linear", "factor": 4.0}, 32768),
        ({"rope_type": "dynamic", "factor": 2}, 16384),
        (None, 8192),
    ],
)
def test_the_native_context_is_what_vllm_derives(rope: object, context: int) -> None:
    assert parse_config({**CONFIG, "rope_scaling": rope}, "config.json").context == context


def test_sliding_windows_that_are_switched_off_do_not_count() -> None:
    # as in every Qwen2.5: "use_sliding_window": false, "sliding_window": 131072
    config = {**CONFIG, "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}
    assert parse_config(config, "config.json").sliding_layers == 0


# --- formats of weights


@pytest.mark.parametrize(
    ("config", "name", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "AWQ INT4", 4 + 20 / 128),
        ({"quant_method": "gptq_marlin", "bits": 8, "group_size": -1}, "GPTQ INT8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8", 8 + 32 / 128**2),
        ({"quant_method": "mxfp4"}, "MXFP4", 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4", 4.5),
        (None, "16 bit", 16),
    ],
)
def test_a_weight_takes_its_bits_and_its_share_of_scales(config: dict[str, object], name: str, bits: float) -> None:
    found = parse_quantization(config, "config.json")
    assert (found.name, found.bits_a_weight) == (name, pytest.approx(bits))


def test_a_models_other_precisions_are_found() -> None:
    found = catalogue_model("hf:Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8@main")
    assert found is not None
    assert [each.architecture.quantization.name for each in variants(found)] == ["16 bit", "AWQ INT4"]


def test_every_entry_of_the_catalogue_says_where_it_is_from() -> None:
    assert all(card.source for card in gpus().values())
    for name in catalogue_names():
        found = catalogue_model(name)
        assert found is not None
        assert found.source
        assert found.weight_files_bytes > 0
