"""A GGUF file → a Hugging Face folder: what the engine loads when a model comes out of a Python package.

The weights are dequantised and stored as bfloat16 (`weights.py`), the tokenizer is rebuilt (`gguf_tokenizer.py`), and
config.json is written from the file's metadata. Only the `llama` architecture with default rotary embeddings is
converted: anything else is refused rather than converted to something that answers nonsense.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import gguf
import numpy as np
import numpy.typing as npt

from infbox.errors import ModelError
from infbox.model.gguf_tokenizer import write_tokenizer
from infbox.model.weights import Planned, write_bf16

WAY_OUT = "name the original model with `model_source: hf:ORG/NAME`, or a Hugging Face folder with `folder:/path`"

Floats = npt.NDArray[np.float32]


class _Tensor(Protocol):
    """What is used of gguf's ReaderTensor."""

    name: str
    tensor_type: gguf.GGMLQuantizationType
    shape: npt.NDArray[np.uint32]  # innermost dimension first
    data: npt.NDArray[Any]


@dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file: metadata by key, and tensors by GGUF name (memory-mapped, still quantised)."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, _Tensor]

    def need(self, key: str) -> Any:
        """The metadata value of `key`; its absence is a ModelError."""
        if key not in self.metadata:
            raise ModelError(f"{self.path.name} has no metadata {key!r}, which a conversion needs", WAY_OUT)
        return self.metadata[key]


def open_gguf(path: Path) -> GgufFile:
    """Read a GGUF file's metadata and tensor table.

    Raises:
        ModelError: the file is not GGUF, or is cut off.
    """
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: cast(_Tensor, tensor) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as fault:
        raise ModelError(f"{path.name} is not a whole GGUF file: {fault}", "fetch it again") from None
    return GgufFile(path, metadata, tensors)


def convert(source: Path, folder: Path) -> list[str]:
    """Convert the GGUF file `source` into the existing, empty `folder`. Returns remarks for the journal.

    Raises:
        ModelError: the file is not a GGUF of a llama-architecture model that can be converted faithfully.
        OSError: `folder` cannot be written.
    """
    file = open_gguf(source)
    config = _config(file)
    _write_json(folder / "config.json", config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    remarks = write_tokenizer(file.path.name, file.metadata, folder)
    names = _names(file, config)
    planned = [Planned(hf, _shape(file.tensors[name])) for hf, name in names.items()]
    write_bf16(folder / "model.safetensors", planned, _tensors(file, config, names))
    return remarks


def _config(file: GgufFile) -> dict[str, Any]:
    """config.json of a LlamaForCausalLM."""
    architecture = file.need("general.architecture")
    if architecture != "llama":
        raise ModelError(f"{file.path.name} has architecture {architecture!r}; only 'llama' is converted", WAY_OUT)
    if file.metadata.get("llama.expert_count", 0):
        raise ModelError(f"{file.path.name} is a mixture of experts, which is not converted", WAY_OUT)
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in file.tensors:
        raise ModelError(f"{file.path.name} scales its rotary embeddings, which is not converted", WAY_OUT)
    heads = int(file.need("llama.attention.head_count"))
    hidden = int(file.need("llama.embedding_length"))
    head_dim = int(file.metadata.get("llama.attention.key_length", hidden // heads))
    if int(file.metadata.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise ModelError(f"{file.path.name} rotates only a part of each head, which is not converted", WAY_OUT)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.path.name} has no tensor 'token_embd.weight'", WAY_OUT)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "attention_dropout": 0.0,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": int(file.need("llama.feed_forward_length")),
        "max_position_embeddings": int(file.need("llama.context_length")),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": int(file.need("llama.block_count")),
        "num_key_value_heads": int(file.metadata.get("llama.attention.head_count_kv", heads)),
        "rms_norm_eps": float(file.need("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(file.metadata.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": _shape(embedding)[0],
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (token := file.metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{name}_token_id"] = int(token)
    return config


def _names(file: GgufFile, config: dict[str, Any]) -> dict[str, str]:
    """Every tensor the architecture needs: {Hugging Face name: GGUF name}.

    Raises:
        ModelError: one is missing, or the file holds one that would be left over.
    """
    wanted = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config["tie_word_embeddings"]:
        wanted.append("lm_head.weight")
    in_layer = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    in_layer += [f"self_attn.{part}_proj.weight" for part in "qkvo"]
    in_layer += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    if config["attention_bias"]:
        in_layer += [f"self_attn.{part}_proj.bias" for part in "qkvo"]
    layers: int = config["num_hidden_layers"]
    wanted += [f"model.layers.{layer}.{name}" for layer in range(layers) for name in in_layer]
    name_map = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    names: dict[str, str] = {}
    for hf in wanted:
        name = name_map.get_name(hf, try_suffixes=(".weight", ".bias"))
        if name is None or name not in file.tensors:
            raise ModelError(f"{file.path.name} lacks the tensor {name or hf!r}", WAY_OUT)
        names[hf] = name
    if left := sorted(set(file.tensors) - set(names.values())):
        raise ModelError(f"{file.path.name} holds {left[0]!r}, which a llama model has no place for", WAY_OUT)
    return names


def _tensors(file: GgufFile, config: dict[str, Any], names: dict[str, str]) -> Iterator[Floats]:
    """The dequantised tensors in the order of `names`, with rotary rows back in Hugging Face's order."""
    for hf, name in names.items():
        tensor = file.tensors[name]
        try:
            values: Floats = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(_shape(tensor))
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise ModelError(f"{file.path.name}: no way to dequantise {name!r}, a {kind} tensor", WAY_OUT) from None
        if ".q_proj." in hf:
            values = unpermute(values, config["num_attention_heads"])
        elif ".k_proj." in hf:
            values = unpermute(values, config["num_key_value_heads"])
        yield values


def unpermute(values: Floats, heads: int) -> Floats:
    """Undo what llama.cpp's converter does to Q and K rows: within a head, (pair, half) → (half, pair).

    `values` has shape (heads * head_dim, …); the result has the same shape.
    """
    split = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return split.swapaxes(1, 2).reshape(values.shape)


def _shape(tensor: _Tensor) -> tuple[int, ...]:
    """A tensor's shape, outermost dimension first."""
    return tuple(int(n) for n in reversed(tensor.shape))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
