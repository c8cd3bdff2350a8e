"""What tests of the engine's image begin with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_podman import FakePodman

from infbox.image.fetch import Records


@pytest.fixture
def podman(tmp_path: Path) -> FakePodman:
    folder = tmp_path / "podman"
    folder.mkdir()
    return FakePodman(folder)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "records")


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def sleep(naps: list[float]) -> Callable[[float], None]:
    return naps.append
