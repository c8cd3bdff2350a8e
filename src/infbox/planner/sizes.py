"""How large a model is: parameters, bytes of weights on one GPU, bytes of KV cache a token.

The shards are those of vLLM 0.32: attention heads, the rows or columns of dense layers and the vocabulary are divided
by tensor parallelism; KV heads too, and where there are more GPUs than KV heads each GPU holds one, a copy; experts
are sliced by tensor parallelism, or with expert parallelism dealt out whole to tensor times data parallel GPUs; norms
and routers are everywhere. Pipeline stages are `vllm.distributed.utils.get_pp_indices`.
"""

from dataclasses import dataclass

from infbox.catalogue.config import Architecture

_VOCAB_PADDING = 64  # vLLM rounds the vocabulary up to it


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How an engine is spread: the product of its sizes is the number of GPUs."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts: bool = False

    @property
    def world(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def expert_ranks(self) -> int:
        """GPUs that whole experts are dealt out to; 1: each expert is sliced instead."""
        return self.tensor * self.data if self.experts else 1


ONE = Parallel()


def stages(layers: int, pipeline: int) -> list[int]:
    """Layers of each pipeline stage: what remains of an even division goes to the stages before the last."""
    counts = [layers // pipeline] * pipeline
    for place in range(2, layers % pipeline + 2):
        counts[-place] += 1
    return counts


def layer_parameters(model: Architecture, sparse: bool, parallel: Parallel = ONE) -> tuple[float, float]:
    """Parameters of one layer on one GPU: (those that the quantisation shrinks, those in 16 bits)."""
    tensor = parallel.tensor
    attention = _attention(model, tensor)
    plain = 2.0 * model.hidden
    if not sparse or model.experts is None:
        feed_forward = 3.0 * model.hidden * model.intermediate / tensor
    else:
        experts = model.experts
        here = -(-experts.count // parallel.expert_ranks)
        sliced = 1 if parallel.experts else tensor
        feed_forward = 3.0 * model.hidden * experts.intermediate * here / sliced
        feed_forward += 3.0 * model.hidden * experts.shared_intermediate / tensor
        plain += model.hidden * experts.count
    if model.quantization.experts_only:
        return (feed_forward, plain + attention) if sparse else (0.0, plain + attention + feed_forward)
    return attention + feed_forward, plain


def _attention(model: Architecture, tensor: int) -> float:
    hidden, heads = model.hidden, model.heads / tensor
    if latent := model.latent:
        queries = latent.nope_dim + latent.rope_dim
        up = latent.kv_rank * heads * (latent.nope_dim + latent.v_dim) + heads * latent.v_dim * hidden
        down = hidden * (latent.kv_rank + latent.rope_dim)
        if latent.q_rank:
            return up + down + hidden * latent.q_rank + latent.q_rank * heads * queries
        return up + down + hidden * heads * queries
    return 2.0 * hidden * heads * model.head_dim + 2.0 * hidden * max(1.0, model.kv_heads / tensor) * model.head_dim


def vocabulary_parameters(model: Architecture, tensor: int = 1) -> float:
    """Parameters of the embedding on one GPU; the output layer has as many again, unless the two are tied."""
    return -(-model.vocab // _VOCAB_PADDING) * _VOCAB_PADDING * model.hidden / tensor


def parameters(model: Architecture) -> float:
    """All parameters of the model, each once."""
    dense, sparse = _kinds(model)
    per_dense, per_sparse = (sum(layer_parameters(model, kind)) for kind in (False, True))
    return dense * per_dense + sparse * per_sparse + vocabulary_parameters(model) * (1 if model.tied else 2)


def active_parameters(model: Architecture) -> float:
    """Parameters that one token is multiplied with: of the experts, those that it takes; no embedding, a look-up."""
    total = parameters(model) - (0 if model.tied else vocabulary_parameters(model))
    if model.experts is None:
        return total
    idle = model.experts.count - model.experts.active
    return total - 3.0 * model.hidden * model.experts.intermediate * idle * model.experts.layers


def weight_bytes(
    model: Architecture, parallel: Parallel = ONE, stage: int = 0, *, bytes_16: int = 2, as_file: bool = False
) -> int:
    """Bytes of weights on one GPU of a pipeline stage. `bytes_16` is 4 where a 16-bit model is loaded as float32.

    `as_file`: as the published files hold it, without what the engine makes of it at loading: for MLA, the
    decompression matrices unpacked to 16 bits.
    """
    counts = stages(model.layers, parallel.pipeline)
    first = sum(counts[:stage])
    dense_layers, _ = _kinds(model)
    bits = model.quantization.bits_a_weight
    total = 0.0
    for layer in range(first, first + counts[stage]):
        quantised, plain = layer_parameters(model, layer >= dense_layers, parallel)
        total += plain * bytes_16
        total += quantised * (bytes_16 if model.quantization.is_16_bit else bits / 8)
        if model.latent and not as_file:
            latent = model.latent
            total += latent.kv_rank * model.heads / parallel.tensor * (latent.nope_dim + latent.v_dim) * bytes_16
    return round(total) + vocabulary_bytes(model, parallel, stage, bytes_16=bytes_16)


def vocabulary_bytes(model: Architecture, parallel: Parallel, stage: int, *, bytes_16: int = 2) -> int:
    """Of a pipeline stage's weights on one GPU, those of the vocabulary: before its layers and behind them."""
    ends = int(stage == 0) + int(stage == parallel.pipeline - 1)
    if model.tied:
        ends = min(ends, 1)
    return round(ends * vocabulary_parameters(model, parallel.tensor) * bytes_16)


def _kinds(model: Architecture) -> tuple[int, int]:
    """Dense layers, which come first, and layers with experts."""
    sparse = model.experts.layers if model.experts else 0
    return model.layers - sparse, sparse


def kv_bytes_a_layer(model: Architecture, tensor: int, bytes_a_value: int) -> int:
    """Bytes of KV cache of one token in one layer on one GPU.

    Grouped-query attention keeps a key and a value for each KV head; MLA one compressed vector, whole on each GPU.
    """
    if latent := model.latent:
        return (latent.kv_rank + latent.rope_dim) * bytes_a_value
    return 2 * max(1, model.kv_heads // tensor) * model.head_dim * bytes_a_value


def kv_bytes_a_token(model: Architecture, bytes_a_value: int = 2) -> int:
    """Bytes of KV cache that one more token of a long context costs, over all layers and GPUs without copies.

    Sliding layers keep a window and cost nothing more once it is full.
    """
    layers = model.full_layers or model.layers
    return layers * kv_bytes_a_layer(model, 1, bytes_a_value)
