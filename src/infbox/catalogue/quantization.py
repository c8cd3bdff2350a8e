"""How a model's weights are stored: a quantization_config → bits a weight, and what divides and what runs them.

Names and limits are those of vLLM 0.32, `vllm/model_executor/layers/quantization/`: each method's
`get_min_capability`, and for compressed-tensors that of the scheme which its config chooses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from infbox.errors import ModelError

GROUP = 128  # weights that share a scale, where a config does not say
# Method → ten times the compute capability from which vLLM runs it.
MINIMUM = {"awq": 75, "gptq": 60, "fp8": 75, "compressed-tensors": 75, "mxfp4": 80, "modelopt": 80, "fbgemm_fp8": 80}
MINIMUM_NVFP4 = 75


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A format of weights. `bits` are those of one weight; scales and zero points come on top in `bits_a_weight`.

    `group` weights along the input dimension share a scale (0: a whole row does); `block` is the output and input size
    of FP8 blocks, (0, 0) without. `experts_only`: everything but the experts is in 16 bits.
    """

    method: str
    name: str
    bits: int
    bits_a_weight: float
    group: int = 0
    block: tuple[int, int] = (0, 0)
    minimum_capability: int = 0
    experts_only: bool = False

    @property
    def is_16_bit(self) -> bool:
        return not self.method

    @property
    def is_fp8(self) -> bool:
        return self.name == "FP8"


NONE = Quantization(method="", name="16 bit", bits=16, bits_a_weight=16.0)


def parse_quantization(config: Mapping[str, Any] | None, where: str) -> Quantization:
    """A quantization_config; None is none.

    Raises:
        ModelError: it is malformed, or a format that is not known here; `where` is its file.
    """
    if config is None:
        return NONE
    method = str(config.get("quant_method", "")).lower().replace("_marlin", "").replace("auto_", "")
    match method:
        case "awq" | "gptq":
            return _integer(method, _number(config, ("bits", "w_bit"), 4, where), _group(config, where), where)
        case "fp8" | "fbgemm_fp8":
            return _fp8(method, config.get("weight_block_size"), where)
        case "mxfp4":
            # 4 bits, and an 8-bit scale for each 32; vLLM pads to its kernels' tiles.
            return Quantization(
                method=method, name="MXFP4", bits=4, bits_a_weight=4.25, group=32,
                minimum_capability=MINIMUM[method], experts_only=True,
            )  # fmt: skip
        case "compressed-tensors":
            return _compressed(config, where)
        case "modelopt" | "modelopt_fp4":
            return _modelopt(config, where)
        case _:
            raise ModelError(
                f"{where} is quantised by {str(config.get('quant_method'))[:40]!r}, which the planner does not know",
                f"name a variant quantised by {', '.join(sorted(MINIMUM))}, or one in 16 bits",
            )


def _integer(method: str, bits: int, group: int, where: str) -> Quantization:
    """AWQ, GPTQ and their like: a 16-bit scale and a zero point of `bits` a group."""
    if bits not in (2, 3, 4, 8):
        raise ModelError(f"{where} has weights of {bits} bits, and there are 4 and 8", "is the file whole?")
    overhead = (16 + bits) / group if group else 0.0
    return Quantization(
        method=method, name=f"{method.upper()} INT{bits}" if method in ("awq", "gptq") else f"INT{bits}", bits=bits,
        bits_a_weight=bits + overhead, group=group, minimum_capability=MINIMUM[method],
    )  # fmt: skip


def _fp8(method: str, block: object, where: str) -> Quantization:
    if block is None:
        return Quantization(
            method=method, name="FP8", bits=8, bits_a_weight=8.0, minimum_capability=MINIMUM.get(method, 75)
        )
    sizes = cast(list[object], block) if isinstance(block, list) else []
    if len(sizes) != 2 or not all(type(size) is int and 1 <= size <= 4096 for size in sizes):
        raise ModelError(
            f"{where} has weight_block_size {str(sizes or None)[:60]}, not two sizes", "is the file whole?"
        )
    rows, columns = cast(tuple[int, int], (sizes[0], sizes[1]))
    return Quantization(
        method=method, name="FP8", bits=8, bits_a_weight=8 + 32 / (rows * columns), block=(rows, columns),
        minimum_capability=MINIMUM.get(method, 75),
    )  # fmt: skip


def _compressed(config: Mapping[str, Any], where: str) -> Quantization:
    groups = config.get("config_groups")
    first: Any = next(iter(cast(dict[str, Any], groups).values()), None) if isinstance(groups, dict) else None
    weights: Any = cast(dict[str, Any], first).get("weights") if isinstance(first, dict) else None
    if not isinstance(weights, dict):
        raise ModelError(f"{where} is quantised by compressed-tensors, and does not say how", "is the file whole?")
    said = cast(dict[str, Any], weights)
    bits = _number(said, ("num_bits",), 8, where)
    if said.get("type") == "float" and bits == 8:
        return _fp8("compressed-tensors", said.get("block_structure"), where)
    if said.get("type") == "float":  # NVFP4: an 8-bit scale for each 16
        return Quantization(
            method="compressed-tensors", name="NVFP4", bits=4, bits_a_weight=4.5, group=16,
            minimum_capability=MINIMUM_NVFP4,
        )  # fmt: skip
    group = _group(said, where) if said.get("strategy", "group") == "group" else 0
    return _integer("compressed-tensors", bits, group, where)


def _modelopt(config: Mapping[str, Any], where: str) -> Quantization:
    algorithm = str(config.get("quant_algo") or cast(Any, config.get("quantization") or {}).get("quant_algo", ""))
    if algorithm.upper() == "NVFP4":
        return Quantization(
            method="modelopt", name="NVFP4", bits=4, bits_a_weight=4.5, group=16, minimum_capability=MINIMUM_NVFP4
        )
    if algorithm.upper().startswith("FP8"):
        return _fp8("modelopt", None, where)
    raise ModelError(f"{where} is quantised by modelopt as {algorithm[:40]!r}", "FP8 and NVFP4 are known")


def _group(config: Mapping[str, Any], where: str) -> int:
    """The group size; 0 where -1 says that a whole row shares a scale."""
    size = config.get("group_size", config.get("q_group_size", GROUP))
    if size is None or size == -1:
        return 0
    if type(size) is not int or not 1 <= size <= 65536:
        raise ModelError(f"{where} has group_size {str(size)[:40]!r}", "it is a whole number from 1 up, or -1")
    return size


def _number(config: Mapping[str, Any], names: tuple[str, ...], default: int, where: str) -> int:
    value = next((config[name] for name in names if name in config), default)
    if type(value) is not int or not 1 <= value <= 32:
        raise ModelError(f"{where} has {names[0]} {str(value)[:40]!r}", "it is a whole number of bits")
    return value
