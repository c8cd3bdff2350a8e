"""Models by what `model_source` says: those of models.yml, and any other from its config.json.

A catalogue model needs no network and no folder. Others are read from their folder, or, when asked for on the command
line, from the hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from infbox.catalogue.config import Architecture, parse_config, read_config
from infbox.errors import ModelError

FILE = Path(__file__).with_name("models.yml")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be planned. `family` is the catalogue entry it is another precision of, itself included.

    `weight_files_bytes` is 0 where it is not known; then the planner counts parameters.
    """

    name: str
    architecture: Architecture
    family: str
    weight_files_bytes: int = 0
    more_in_files: str = ""
    tool_call_parser: str = ""
    source: str = ""


def catalogue_model(source: str) -> Model | None:
    """The catalogue's model for `hf:ORG/NAME[@REVISION]`, ORG/NAME or pypi:…; None: it has none."""
    name = source.removeprefix("hf:").partition("@")[0] if not source.startswith("pypi:") else source
    entries = _entries()
    exact = {known.lower(): known for known in entries}.get(name.lower())
    return _model(exact, entries) if exact else None


def catalogue_names() -> tuple[str, ...]:
    """Every model of the catalogue, as models.yml names it."""
    return tuple(_entries())


def variants(model: Model) -> list[Model]:
    """The catalogue's other precisions of a model, fewest bits last."""
    entries = _entries()
    found = [_model(name, entries) for name, entry in entries.items() if entry.get("of", name) == model.family]
    others = [each for each in found if each.name != model.name]
    return sorted(others, key=lambda each: -each.architecture.quantization.bits_a_weight)


def folder_model(folder: Path) -> Model:
    """The model in a Hugging Face folder.

    Raises:
        ModelError: it has no config.json that can be planned.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is {'not a folder' if folder.exists() else 'not there'}", "name a model's folder")
    architecture = read_config(folder / "config.json")
    try:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except OSError:
        size = 0
    return Model(name=str(folder), architecture=architecture, family="", weight_files_bytes=size, source=str(folder))


@cache
def _entries() -> Mapping[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], yaml.load(FILE.read_text(encoding="utf-8"), Loader=_LOADER))  # noqa: S506


def _model(name: str, entries: Mapping[str, dict[str, Any]]) -> Model:
    entry = entries[name]
    family = entry.get("of", name)
    architecture = parse_config(entries[family]["config"], f"models.yml: {name}", entry.get("quantization"))
    return Model(
        name=name,
        architecture=architecture,
        family=family,
        weight_files_bytes=round(entry["weight_files_gb"] * 1e9),
        more_in_files=entry.get("more_in_files", ""),
        tool_call_parser=entry.get("tool_call_parser", ""),
        source=entry["source"],
    )
