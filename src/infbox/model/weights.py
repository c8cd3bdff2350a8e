"""safetensors files: writing one tensor after the other, and reading headers without reading weights.

The file format: 8 bytes little-endian header length, that many bytes of JSON
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, then the tensors' bytes. The library's own writer wants
all tensors in memory at once; this one holds a single tensor. `gguf.py` writes with it, `verify.py` reads headers.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

MAX_HEADER_BYTES = 100_000_000  # what the reference reader allows
_ALIGNMENT = 8
_ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: its name and its shape, outermost dimension first."""

    name: str
    shape: tuple[int, ...]


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """float32 → the bits of bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), ((bits >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16), rounded)


def write_bf16(path: Path, planned: list[Planned], tensors: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write a safetensors file of bfloat16 tensors; `tensors` yields them in the order of `planned`.

    Raises:
        OSError: the disk is full, or not writable.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in planned:
        end = begin + 2 * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor, values in zip(planned, tensors, strict=True):
            if values.shape != tensor.shape:
                raise ValueError(f"{tensor.name}: shape {values.shape}, planned {tensor.shape}")
            file.write(to_bf16(values).astype("<u2", copy=False).data)
        file.flush()
        os.fsync(file.fileno())


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read a safetensors header and check it against the file's size: {tensor: (dtype, shape)}.

    Raises:
        ValueError: what is wrong with the file, as the end of a sentence that begins with its name.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise ValueError(f"has {size} bytes, fewer than the 8 that give its header's length")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"claims a header of {length:,} bytes, so it is no safetensors file")
        if 8 + length > size:
            raise ValueError(f"is cut off: its header needs {8 + length:,} bytes and the file has {size:,}")
        raw = file.read(length)
    try:
        header: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("has a header that is not a JSON object")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in cast(dict[str, Any], header).items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = _entry(name, entry)
        bits = _ITEM_BITS.get(dtype)
        if bits is not None and (end - begin) * 8 != math.prod(shape) * bits:
            raise ValueError(f"gives tensor {name!r} {end - begin:,} bytes, not what {dtype} {list(shape)} takes")
        tensors[name] = (dtype, shape)
        spans.append((begin, end))
    if not tensors:
        raise ValueError("holds no tensors")
    expected = 0
    for begin, end in sorted(spans):
        if begin != expected:
            raise ValueError(f"has tensors that overlap or leave a gap at byte {expected:,}")
        expected = end
    if 8 + length + expected != size:
        how = "is cut off" if 8 + length + expected > size else "has bytes after its last tensor"
        raise ValueError(f"{how}: its tensors end at byte {8 + length + expected:,} and the file has {size:,}")
    return tensors


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """One tensor's (dtype, shape, (begin, end)) out of a header."""
    fields = cast(dict[str, Any], entry) if isinstance(entry, dict) else {}
    dtype, shape, span = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or span is None or len(span) != 2 or span[0] > span[1]:
        raise ValueError(f"has a malformed entry for tensor {name!r}")
    return dtype, shape, (span[0], span[1])


def _counts(value: object) -> tuple[int, ...] | None:
    """A JSON list of whole numbers ≥ 0 as a tuple; anything else is None."""
    items = cast(list[Any], value) if isinstance(value, list) else [-1]
    return tuple(items) if all(type(item) is int and item >= 0 for item in items) else None
