"""A config.json, whoever wrote it → an `Architecture`: what the planner's arithmetic needs of a model.

Attention is one of: grouped-query (multi-head is the case of as many KV heads as heads), the same with a sliding
window on some layers, or multi-head latent attention (MLA). Other kinds of layers (Mamba, linear attention) are
refused, for their memory is counted otherwise.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from infbox.catalogue.quantization import NONE, Quantization, parse_quantization
from infbox.errors import ModelError

MAX_BYTES = 4 * 2**20
_LARGEST = 2**31
WAY_OUT = "name a model with a whole config.json, as its repository on the hub has it"
# Layer types of transformers whose KV is that of ordinary attention.
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts: how many there are in a layer, how many a token takes, and their size."""

    count: int
    active: int
    intermediate: int
    shared_intermediate: int  # of the experts that every token takes, together; 0: none
    layers: int  # layers with experts; the others are dense


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention: the ranks and head sizes, as DeepSeek's config names them."""

    q_rank: int  # 0: queries are not compressed
    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model's shape. Sizes are counts of elements; `context` is the native one in tokens."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int
    rope_theta: float
    dtype: str
    window: int = 0  # tokens that a sliding layer sees; 0: there are none
    sliding_layers: int = 0
    experts: Experts | None = None
    latent: Latent | None = None
    quantization: Quantization = NONE
    vision: bool = False

    @property
    def full_layers(self) -> int:
        return self.layers - self.sliding_layers


def read_config(path: Path) -> Architecture:
    """Read a config.json.

    Raises:
        ModelError: it cannot be read, or is not the config of a model whose memory can be planned.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as fault:
        raise ModelError(f"{path} cannot be read: {fault.strerror}", WAY_OUT) from None
    if len(content) > MAX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_BYTES >> 20} MiB, so it is no model's configuration", WAY_OUT)
    try:
        config: Any = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise ModelError(f"{path} is not JSON: {str(fault)[:100]}", WAY_OUT) from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object", WAY_OUT)
    return parse_config(cast(dict[str, Any], config), str(path))


def parse_config(config: Mapping[str, Any], where: str, quantization: Mapping[str, Any] | None = None) -> Architecture:
    """What a config.json says; `where` names it in errors; `quantization` stands in for its quantization_config.

    Raises:
        ModelError: a field is missing, has the wrong type, or contradicts another.
    """
    text = config.get("text_config")
    inner = _Fields({**config, **cast(dict[str, Any], text)} if isinstance(text, dict) else config, where)
    model_type = str(inner.values.get("model_type", ""))
    layers, hidden, heads = (inner.need(name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    if layers > 4096 or heads > 4096:
        raise ModelError(f"{where} has {layers} layers of {heads} heads", WAY_OUT)
    head_dim = inner.get("head_dim") or hidden // heads
    if not head_dim:
        raise ModelError(f"{where} has more attention heads ({heads}) than hidden_size ({hidden})", WAY_OUT)
    kv_heads = inner.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise ModelError(f"{where} has {heads} attention heads, which {kv_heads} KV heads do not divide", WAY_OUT)
    window, sliding = _sliding(inner, layers)
    quantised = quantization if quantization is not None else inner.mapping("quantization_config")
    intermediate = inner.get("intermediate_size") or 4 * hidden
    return Architecture(
        model_type=model_type, layers=layers, hidden=hidden, intermediate=intermediate,
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=inner.need("vocab_size"),
        tied=bool(inner.values.get("tie_word_embeddings", False)), context=_context(inner), rope_theta=_theta(inner),
        dtype=str(inner.values.get("torch_dtype") or inner.values.get("dtype") or "bfloat16"),
        window=window, sliding_layers=sliding, experts=_experts(inner, layers, intermediate), latent=_latent(inner),
        quantization=parse_quantization(quantised, where), vision=isinstance(config.get("vision_config"), dict),
    )  # fmt: skip


@dataclass(frozen=True)
class _Fields:
    """A config's fields, with errors that name its file."""

    values: Mapping[str, Any]
    where: str

    def need(self, name: str) -> int:
        """A count from 1 up."""
        if value := self.get(name):
            return value
        raise ModelError(f"{self.where} has no {name}", WAY_OUT)

    def get(self, *names: str) -> int:
        """The first of the names that is there, a count; 0: none is, or it is null."""
        value = next((self.values[name] for name in names if self.values.get(name) is not None), 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST or value % 1:
            raise ModelError(f"{self.where} has {names[0]} {str(value)[:60]!r}, not a count", WAY_OUT)
        return int(value)

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ModelError(f"{self.where} has {name} {str(value)[:60]!r}, not a JSON object", WAY_OUT)
        return cast(dict[str, Any], value)


def rope_type(rope: Mapping[str, Any] | None) -> str:
    """The kind of scaling that rope parameters name; `default` without."""
    return str((rope or {}).get("rope_type") or (rope or {}).get("type") or "default")


def _context(fields: _Fields) -> int:
    """The native context, as vLLM derives it: only scalings that leave max_position_embeddings alone multiply it."""
    native = fields.get("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
    if not native and fields.values.get("model_type", "").startswith("gemma3"):
        native = 131072  # transformers' default, which these configs leave out
    if not native:
        raise ModelError(f"{fields.where} has no max_position_embeddings", WAY_OUT)
    rope = fields.mapping("rope_scaling") or fields.mapping("rope_parameters")
    kind = rope_type(rope)
    unscaled = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "mrope")
    if rope is None or kind in unscaled or "gemma3" in str(fields.values.get("model_type")):
        return native
    factor = rope.get("factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1024:
        raise ModelError(f"{fields.where} scales its context by {str(factor)[:40]!r}", WAY_OUT)
    return int(native * factor)


def _theta(fields: _Fields) -> float:
    rope = fields.mapping("rope_parameters") or {}
    value = fields.values.get("rope_theta") or rope.get("rope_theta") or 10000.0
    return float(value) if isinstance(value, int | float) else 10000.0


def _sliding(fields: _Fields, layers: int) -> tuple[int, int]:
    """The window of sliding layers and how many there are."""
    window = fields.get("sliding_window")
    types = fields.values.get("layer_types")
    if isinstance(types, list):
        kinds = [str(kind) for kind in cast(list[object], types)]
        if others := sorted(set(kinds) - {_FULL, _SLIDING}):
            raise _unplanned(fields.where, f"layers of {others[0]}")
        if len(kinds) != layers:
            raise ModelError(f"{fields.where} has {layers} layers and {len(kinds)} layer_types", WAY_OUT)
        return (window, kinds.count(_SLIDING)) if window else (0, 0)
    model_type = str(fields.values.get("model_type", ""))
    for name in ("mamba", "ssm_cfg", "linear_num_key_heads", "state_size", "full_attention_interval"):
        if name in model_type or fields.values.get(name):
            raise _unplanned(fields.where, f"layers of another kind than attention ({name})")
    if not window or fields.values.get("use_sliding_window") is False:
        return 0, 0
    if model_type.startswith("qwen2"):  # they slide only if told to
        return (window, max(0, layers - fields.get("max_window_layers"))) if _on(fields) else (0, 0)
    # Gemma 2 and 3 keep one full layer in each `pattern`; others slide everywhere.
    pattern = fields.get("sliding_window_pattern") or {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}.get(model_type, 0)
    return window, layers - layers // pattern if pattern else layers


def _on(fields: _Fields) -> bool:
    return fields.values.get("use_sliding_window") is True


def _unplanned(where: str, what: str) -> ModelError:
    return ModelError(
        f"{where} has {what}, whose memory the planner cannot count",
        "plan a model whose layers are all of attention, or let the engine say what it needs",
    )


def _experts(fields: _Fields, layers: int, intermediate: int) -> Experts | None:
    count = fields.get("num_experts", "num_local_experts", "n_routed_experts")
    if count < 2:
        return None
    size = fields.get("moe_intermediate_size") or intermediate
    shared = fields.get("shared_expert_intermediate_size") or fields.get("n_shared_experts") * size
    listed: Any = fields.values.get("mlp_only_layers")
    only_dense = cast(list[object], listed) if isinstance(listed, list) else []
    dense = fields.get("first_k_dense_replace") + len(only_dense)
    step = fields.get("decoder_sparse_step", "moe_layer_freq") or 1
    active = fields.get("num_experts_per_tok") or 1
    if dense > layers or active > count:
        raise ModelError(f"{fields.where} has {count} experts, {active} active, {dense} dense layers", WAY_OUT)
    sparse = (layers - dense) // step
    return Experts(count=count, active=active, intermediate=size, shared_intermediate=shared, layers=sparse)


def _latent(fields: _Fields) -> Latent | None:
    rank = fields.get("kv_lora_rank")
    if not rank:
        return None
    rope, nope, v = (fields.need(name) for name in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    return Latent(q_rank=fields.get("q_lora_rank"), kv_rank=rank, rope_dim=rope, nope_dim=nope, v_dim=v)
