"""The file of workspaces: what can be wrong with it is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from infbox.errors import InfboxError
from infbox.watcher.settings import read_workspaces

GOOD: dict[str, Any] = {
    "model": "/models/m",
    "pack_tokens": 1000,
    "workspaces": [{"name": "shop", "tenant": "alice", "path": "/srv/shop"}],
}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    place = tmp_path / "w.json"
    place.write_text(json.dumps(GOOD))
    model, tokens, (workspace,) = read_workspaces(place)
    assert (model, tokens) == (Path("/models/m"), 1000)
    assert (workspace.name, workspace.tenant, workspace.path) == ("shop", "alice", Path("/srv/shop"))


def entry(**change: object) -> dict[str, Any]:
    return {**GOOD, "workspaces": [{**GOOD["workspaces"][0], **change}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "cannot be read"),
        (b"[]", 'a list "workspaces"'),
        ({**GOOD, "workspaces": {}}, 'a list "workspaces"'),
        ({**GOOD, "workspace": []}, "'workspace'"),
        ({**GOOD, "model": "models"}, "'models', which is not an absolute path"),
        ({**GOOD, "model": None}, "not an absolute path"),
        ({**GOOD, "pack_tokens": 0}, '"pack_tokens"'),
        ({**GOOD, "pack_tokens": True}, '"pack_tokens"'),
        ({**GOOD, "pack_tokens": "1"}, '"pack_tokens"'),
        ({**GOOD, "workspaces": ["x"]}, "workspace 1"),
        ({**GOOD, "workspaces": GOOD["workspaces"] * 2}, "alice/shop twice"),
        (entry(name="../x"), "'../x', which is not a name"),
        (entry(tenant=""), "'', which is not a name"),
        (entry(tenant=7), "7, which is not a name"),
        (entry(path="~/x"), "'~/x', which is not an absolute path"),
        (entry(path="/a\0b"), "not an absolute path"),
        (entry(extra=1), "the unknown key 'extra'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes | dict[str, Any], said: str) -> None:
    place = tmp_path / "w.json"
    place.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InfboxError) as caught:
        read_workspaces(place)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_gone_or_a_folder_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InfboxError, match="cannot be read"):
            read_workspaces(place)
