"""GPUs by name, out of gpus.yml, and the notation NxNAME[-GB] in which presets and `--gpus` name them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from infbox.errors import PresetError
from infbox.variables import nearest_name

FILE = Path(__file__).with_name("gpus.yml")
# PyYAML's C loader is ten times faster than its Python one; it is not built everywhere.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST = 64
_NOTATION = re.compile(
    r"(?:(?P<count>[0-9]{1,4})[xX])?(?P<name>[A-Za-z][A-Za-z0-9 ]{0,30}?(?:-[0-9]{1,4})?)(?:[gG][bB])?"
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU model; the units are those that gpus.yml explains."""

    name: str
    memory_gb: int
    nvidia_smi_mib: int
    usable_mib: int
    compute_capability: float
    bandwidth_gb_s: float
    bf16_tflops: float
    link: str
    link_gb_s: float
    source: str
    pci: tuple[str, ...]
    usable_from: str = "torch"
    aws: str = ""

    @property
    def capability(self) -> int:
        """Compute capability as the engine counts it: 8.9 → 89, 12.0 → 120."""
        return round(self.compute_capability * 10)

    @property
    def has_bf16(self) -> bool:
        return self.capability >= 80

    @property
    def has_fp8(self) -> bool:
        """Whether it computes in FP8; others can only store weights so."""
        return self.capability >= 89

    @property
    def usable_bytes(self) -> int:
        """What the engine sees as the card's memory."""
        return self.usable_mib * 2**20


@dataclass(frozen=True)
class Gpus:
    """Several GPUs of one model, in one host."""

    count: int
    gpu: Gpu

    def __str__(self) -> str:
        return f"{self.count}x{self.gpu.name}"


@cache
def gpus() -> Mapping[str, Gpu]:
    """Every GPU of the catalogue by name."""
    entries = cast(dict[str, dict[str, Any]], yaml.load(FILE.read_text(encoding="utf-8"), Loader=_LOADER))  # noqa: S506
    return {name: Gpu(name=name, pci=tuple(entry.pop("pci")), **entry) for name, entry in entries.items()}


@cache
def gpus_by_pci() -> Mapping[str, Gpu]:
    """Every GPU of the catalogue by its device ids on PCI, in four hexadecimal digits."""
    return {device: each for each in gpus().values() for device in each.pci}


def gpu(name: str) -> Gpu:
    """The GPU `name`, however it is capitalised; RTX 4090 and H100-80 are understood too.

    Raises:
        PresetError: there is none, or the name fits several; names the nearest.
    """
    known = gpus()
    wanted = re.sub(r"[ _]", "", name).upper()
    by_size = {f"{each.name.split('-')[0]}-{each.memory_gb}": each for each in known.values()}
    if found := known.get(wanted) or by_size.get(wanted):
        return found
    if sizes := [each for each in known if each.split("-")[0] == wanted]:
        raise PresetError(f"there are several GPUs {name}", f"say which: {' or '.join(sizes)}")
    model = wanted.split("-")[0]
    if model in known:
        raise PresetError(
            f"there is no {model} with {wanted.partition('-')[2]} GB", f"it has {known[model].memory_gb}: write {model}"
        )
    nearest = nearest_name(wanted, [*known, *by_size], cutoff=0.5)
    every = f"there are {', '.join(known)}"
    raise PresetError(f"no GPU `{name}` is known", f"did you mean {nearest}? {every}" if nearest else every)


def parse_gpus(notation: str) -> Gpus:
    """`8xH100`, `4xA100-80`, `1xT4`; a name alone is one of it.

    Raises:
        PresetError: it is no such notation, or names no GPU of the catalogue.
    """
    match = _NOTATION.fullmatch(notation.strip())
    hint = "write NxNAME or NxNAME-GB, as in 4xA100-80, 8xRTX4090 or 1xT4"
    if match is None:
        raise PresetError(f"`{notation[:60]}` names no GPUs", hint)
    count = int(match["count"] or 1)
    if not 1 <= count <= MOST:
        raise PresetError(f"`{notation}` is {count} GPUs in one host, and there are 1 to {MOST}", hint)
    return Gpus(count, gpu(match["name"]))
