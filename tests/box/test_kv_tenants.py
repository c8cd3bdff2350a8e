"""What tenants see of each other's KV, how much of it each may keep, and that it is forgotten when told to be."""

from collections.abc import Iterator

import pytest
from kept import (
    CHUNKS,
    DISK_BYTES,
    LONG,
    REDIS,
    TENANT_BYTES,
    another_daemon,
    ask,
    forget,
    prompt,
    tier,
    wait_until_stored,
)
from live_box import LiveBox, until

pytestmark = pytest.mark.kv


@pytest.fixture(scope="module", autouse=True)
def _no_readers_that_were_killed(box: LiveBox) -> None:
    """Those of tests before have chunks in use for minutes."""
    another_daemon(box)


@pytest.fixture(scope="module")
def other(box: LiveBox) -> Iterator[str]:
    """The key of another tenant."""
    key = box.run("infbox key add other").split()[-1]
    until(lambda: box.request("GET", "/v1/models", key=key)[0] == 200, 30, "the key is in force")
    yield key
    box.run("infbox key remove other")


def test_another_tenant_has_nothing_of_it(box: LiveBox, other: str) -> None:
    ask(box, prompt(11))
    wait_until_stored(box)
    assert ask(box, prompt(11), other).cached < 256
    forget(box)
    assert ask(box, prompt(11)).loaded
    forget(box)
    assert ask(box, prompt(12), other).cached < 256
    assert ask(box, prompt(12)).cached < 256


@pytest.mark.kv_long
def test_a_tenant_stays_within_its_share_and_all_within_the_disk(box: LiveBox, other: str) -> None:
    box.run("infbox kv clear")
    ask(box, prompt(13, LONG), other)
    wait_until_stored(box)
    kept = tier(box, "disk")["chunks_of_tenants"]["other"]
    for seed in (14, 15, 16, 17):  # sixteen chunks, of which a share holds thirteen
        ask(box, prompt(seed, LONG))
    wait_until_stored(box)
    by_tenant = tier(box, "disk")["chunks_of_tenants"]
    size = int(box.run(f"ls -l {CHUNKS}/*/* | head -1").split()[4])
    assert 0.8 * TENANT_BYTES <= by_tenant["default"] * size <= 1.05 * TENANT_BYTES
    assert by_tenant["other"] == kept, "one tenant's share is filled at another's cost"
    assert int(box.run(f"du --summarize --bytes {CHUNKS}").split()[0]) <= DISK_BYTES * 1.01
    # What was used last stayed.
    assert ask(box, prompt(17, LONG)).loaded


@pytest.mark.kv_long
def test_what_is_used_in_ram_stays_on_disk(box: LiveBox) -> None:
    ask(box, prompt(21, LONG))
    wait_until_stored(box)
    for seed in (22, 23):
        ask(box, prompt(seed, LONG))
        forget(box)
        assert ask(box, prompt(21, LONG)).loaded
    wait_until_stored(box)
    ask(box, prompt(24, LONG))
    wait_until_stored(box)
    another_daemon(box)
    assert ask(box, prompt(21, LONG)).loaded
    assert (tier(box, "disk")["loaded_chunks"], tier(box, "redis")["loaded_chunks"]) == (4, 0)


def test_a_tenants_kv_is_forgotten_everywhere(box: LiveBox, other: str) -> None:
    ask(box, prompt(31), other)
    ask(box, prompt(32))
    wait_until_stored(box)
    told = box.run("infbox kv clear --tenant other")
    assert "chunks in RAM" in told
    for name in ("RAM", "disk", "redis"):
        assert "other" not in tier(box, name)["chunks_of_tenants"], name
    assert ask(box, prompt(31), other).cached < 256
    assert ask(box, prompt(32)).loaded
    wait_until_stored(box)
    box.run("infbox kv clear")
    assert [tier(box, name)["chunks"] for name in ("RAM", "disk", "redis")] == [0, 0, 0]
    assert not box.run(f"ls {CHUNKS}/*/")
    assert box.run(f"redis-cli -s {REDIS} dbsize") == "0"
    assert ask(box, prompt(32)).cached < 256


def test_forgetting_without_a_daemon_says_what_to_do(box: LiveBox) -> None:
    told = box.run("infbox kv clear --socket /nowhere.sock 2>&1; true")
    assert "systemctl status infbox-lmcache" in told
