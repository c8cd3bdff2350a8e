"""Plans of models that only the hub knows: one small file by the hub's real client, from the hub of fake_hub.py."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub

from infbox.errors import ModelError
from infbox.planner.hub import hub_model
from infbox.planner.presets import plan_preset, role_defaults

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def planned() -> Iterator[FakeHub]:
    hub = FakeHub(
        {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"x" * 1000, "x/y.safetensors": b""}
    )
    yield hub
    hub.close()


@pytest.mark.parametrize("source", ["hf:org/tiny", "org/tiny", "hf:org/tiny@main"])
def test_a_model_is_planned_by_its_config_on_the_hub(planned: FakeHub, source: str) -> None:
    found = hub_model(source, planned.endpoint)
    assert (found.architecture.layers, found.architecture.head_dim, found.weight_files_bytes) == (16, 64, 1000)
    assert [path for path, _ in planned.served] == ["config.json"]  # and nothing else is fetched


def test_the_preset_names_the_mirror(planned: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert role_defaults(ROOT)["model_hub_endpoint"] == ""
    monkeypatch.setattr(
        "infbox.planner.presets.role_defaults",
        lambda root: role_defaults(root) | {"model_hub_endpoint": planned.endpoint},
    )
    found = plan_preset(ROOT, "dev32", model="org/tiny")
    assert found.fits
    assert found.to_json()["kv_bytes_per_token"] == 32 * 1024  # Llama 3.2 1B


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README.md": b"# a card"}, "no config.json"),
        ({"config.json": b'{"hidden_size": 20'}, "not JSON"),
        ({"config.json": b"{}"}, "has no num_hidden_layers"),
        ({"config.json": b" " * (5 * 2**20)}, "no config.json that could be a model's"),
    ],
)
def test_a_repository_without_a_usable_config_is_an_error(files: dict[str, bytes], said: str) -> None:
    hub = FakeHub(files)
    try:
        with pytest.raises(ModelError, match=said) as fault:
            hub_model("org/tiny", hub.endpoint)
    finally:
        hub.close()
    assert fault.value.hint


def test_a_repository_that_there_is_not_or_is_gated_is_told_apart(planned: FakeHub) -> None:
    with pytest.raises(ModelError, match="there is no model 'org/other'"):
        hub_model("org/other", planned.endpoint)
    planned.gated = True
    with pytest.raises(ModelError, match="gated"):
        hub_model("org/tiny", planned.endpoint)


@pytest.mark.parametrize(
    "source", ["pypi:package==1/Name", "hf:", "hf:../../etc", "hf:a/b@", "nonsense", "https://x/y/z"]
)
def test_what_names_no_model_is_an_error_before_anything_is_asked(planned: FakeHub, source: str) -> None:
    with pytest.raises(ModelError):
        hub_model(source, planned.endpoint)
    assert planned.requests == 0
