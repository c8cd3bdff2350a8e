"""What makes a folder a model that an engine can load: configuration, whole weights, a tokenizer.

Headers are read, weights are not: a folder of hundreds of gigabytes is checked in well under a second. Files are
opened by names out of other files only after those names were found in the folder's own listing.
"""

import json
from pathlib import Path
from typing import Any, cast

from infbox.errors import ModelError
from infbox.model.weights import read_header

INDEX = "model.safetensors.index.json"
REFETCH = "remove the folder and run `infbox model fetch` again, or copy the model anew where it is a local folder"
WANTED = "name a Hugging Face folder: config.json, *.safetensors and a tokenizer, all in one folder"


def check_model(folder: Path) -> None:
    """Check that `folder` is a model.

    Raises:
        ModelError: it is not; the sentence names the file at fault.
    """
    names = _listing(folder)
    _check_config(folder, names)
    _check_weights(folder, names)
    _check_tokenizer(folder, names)


def _listing(folder: Path) -> set[str]:
    """The names of the files in `folder`."""
    try:
        if not folder.is_dir():
            missing = not folder.exists()
            raise ModelError(f"{folder} {'does not exist' if missing else 'is not a folder'}", WANTED)
        names = {path.name for path in folder.iterdir() if path.is_file()}
    except PermissionError:
        raise ModelError(
            f"{folder} cannot be read by this user", f"make it readable by others: chmod -R o+rX {folder}"
        ) from None
    except (OSError, RuntimeError) as fault:  # a loop of symlinks is either, by the Python version
        raise ModelError(f"{folder} cannot be read: {fault}", WANTED) from None
    if not names:
        raise ModelError(f"{folder} is empty", WANTED)
    return names


def _check_config(folder: Path, names: set[str]) -> None:
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise ModelError(
                f"{folder} has no config.json: it is a LoRA adapter, not a model",
                "name the base model that its adapter_config.json gives as base_model_name_or_path, or merge the two",
            )
        if any(name.endswith(".gguf") for name in names):
            raise ModelError(
                f"{folder} has no config.json: it holds GGUF files only",
                "name the model's Hugging Face folder instead: the engine loads safetensors",
            )
        raise ModelError(f"{folder} has no config.json", WANTED)
    config = _json_object(folder, "config.json")
    if not config.get("architectures") and not config.get("model_type"):
        raise ModelError(f"{folder / 'config.json'} names neither `architectures` nor `model_type`", WANTED)


def _check_weights(folder: Path, names: set[str]) -> None:
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if not weights:
        if any(name.endswith((".bin", ".pth", ".pt")) for name in names):
            raise ModelError(
                f"{folder} has no *.safetensors, only pickled weights",
                "convert them: pickles run code when they are loaded, so infbox does not load them",
            )
        raise ModelError(f"{folder} has no *.safetensors", WANTED)
    held = {name: _tensors(folder, name) for name in weights}
    if INDEX not in names:
        return
    weight_map = _json_object(folder, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / INDEX} has no `weight_map`", REFETCH)
    for tensor, name in cast(dict[str, Any], weight_map).items():
        if not isinstance(name, str) or name not in held:
            raise ModelError(f"{folder / INDEX} names {name!r}, which is not in the folder", REFETCH)
        if tensor not in held[name]:
            raise ModelError(f"{folder / name} lacks the tensor {tensor!r}, which {INDEX} says it holds", REFETCH)


def _tensors(folder: Path, name: str) -> set[str]:
    """The names of the tensors in one whole safetensors file."""
    try:
        return set(read_header(folder / name))
    except ValueError as fault:
        raise ModelError(f"{folder / name} {fault}", REFETCH) from None
    except OSError as fault:
        raise ModelError(f"{folder / name} cannot be read: {fault.strerror}", REFETCH) from None


def _check_tokenizer(folder: Path, names: set[str]) -> None:
    if "tokenizer.json" in names:
        tokenizer = _json_object(folder, "tokenizer.json")
        if not isinstance(tokenizer.get("model"), dict):
            raise ModelError(f"{folder / 'tokenizer.json'} describes no tokenizer: it has no `model`", REFETCH)
        return
    others = any(name.endswith((".model", ".tiktoken")) or name == "tekken.json" for name in names)
    if not others and not {"vocab.json", "merges.txt"} <= names:
        raise ModelError(f"{folder} has no tokenizer.json, tokenizer.model or vocab.json with merges.txt", WANTED)


def _json_object(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ModelError(f"{path} cannot be read: {fault.strerror}", REFETCH) from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is not JSON", REFETCH) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", REFETCH)
    return cast(dict[str, Any], value)
