"""Keys come and go without a restart."""

from collections.abc import Iterator

import pytest
from live_box import LiveBox, until

NAME = "key-life-test"


@pytest.fixture
def unnamed(box: LiveBox) -> Iterator[None]:
    yield
    box.run(f"infbox key remove {NAME} 2>/dev/null; true")


def status(box: LiveBox, key: str) -> int:
    return box.request("GET", "/v1/models", key=key)[0]


def test_a_new_key_works_at_once_and_a_removed_one_ends_within_seconds(box: LiveBox, unnamed: None):
    pid = box.main_pid("infbox-gateway")
    for _ in range(3):
        key = box.run(f"infbox key add {NAME}")
        assert status(box, key) == 200
        box.run(f"infbox key remove {NAME}")
        until(lambda key=key: status(box, key) == 401, 3, "a removed key is refused")
        assert status(box, box.api_key) == 200
    assert box.main_pid("infbox-gateway") == pid
