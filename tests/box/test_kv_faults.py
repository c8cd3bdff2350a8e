"""Redis away, hanging, slow or full, a disk full or read-only, a daemon that hangs: the box answers and recovers.

Prompts are short, a chunk or two: what is at stake is that they are answered and that what is kept comes back.
"""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kept import CHUNKS, LONG, another_daemon, ask, forget, now, prompt, said, state, tier, wait_until_stored
from kept import REDIS as SOCKET
from live_box import LiveBox, until

pytestmark = pytest.mark.kv

REDIS = f"redis-cli -s {SOCKET}"
WORDS = 150  # some 450 tokens


def keeps(box: LiveBox, name: str, seed: int) -> Callable[[], bool]:
    """Whether a tier takes what is computed now; each try asks another prompt."""
    tries = iter(range(seed, seed + 50))

    def kept() -> bool:
        before = tier(box, name)["chunks"]
        ask(box, prompt(next(tries), WORDS))
        wait_until_stored(box)
        return tier(box, name)["chunks"] > before

    return kept


def failures(box: LiveBox, name: str) -> int:
    return sum(tier(box, name)["failures"].values())


@pytest.fixture(autouse=True)
def nothing_kept(box: LiveBox) -> None:
    box.run("infbox kv clear", check=False)


def test_redis_gives_back_what_the_disk_has_lost(box: LiveBox) -> None:
    begun = now(box)
    cold = ask(box, prompt(101, LONG))
    wait_until_stored(box)
    names = box.run(f"{REDIS} keys '*'").split()
    assert len(names) >= 4
    assert not [name for name in names if "SmolLM" in name or "default" in name]
    # One of them is damaged, and one is another's.
    box.run(f"{REDIS} setrange {names[0]} 5000000 X && {REDIS} copy {names[1]} {names[2]} replace")
    another_daemon(box, f"rm {CHUNKS}/*/*")
    damaged = ask(box, prompt(101, LONG))
    assert damaged.text == cold.text
    assert not damaged.loaded
    assert said(box, "infbox-lmcache", "redis: .*computed again", begun)
    wait_until_stored(box)
    another_daemon(box, f"rm {CHUNKS}/*/*")
    again = ask(box, prompt(101, LONG))
    assert again.text == cold.text
    assert again.loaded
    assert tier(box, "redis")["loaded_chunks"] >= 4


@pytest.fixture
def redis_again(box: LiveBox) -> Iterator[None]:
    yield
    box.run("systemctl kill --signal CONT infbox-redis; systemctl start infbox-redis", check=False)
    box.run(f"{REDIS} config set maxmemory 512mb maxmemory-policy allkeys-lru")


@pytest.mark.usefixtures("redis_again")
@pytest.mark.parametrize(
    ("seed", "fault", "mend", "text"),
    [
        pytest.param(
            1000, "systemctl stop infbox-redis", "systemctl start infbox-redis", "redis: .*does not answer", id="away"
        ),
        pytest.param(
            1100,
            "systemctl kill --signal STOP infbox-redis",
            "systemctl kill --signal CONT infbox-redis",
            "redis: .*hangs",
            id="hanging",
            marks=pytest.mark.kv_long,
        ),
        pytest.param(
            1200,
            f"{REDIS} config set maxmemory 1mb maxmemory-policy noeviction",
            f"{REDIS} config set maxmemory 512mb maxmemory-policy allkeys-lru",
            "redis: .*refuses",
            id="full",
            marks=pytest.mark.kv_long,
        ),
    ],
)
def test_without_redis_it_goes_on_and_says_so(box: LiveBox, seed: int, fault: str, mend: str, text: str) -> None:
    before, begun = failures(box, "redis"), now(box)
    box.run(fault)
    first = ask(box, prompt(seed, WORDS))
    until(lambda: failures(box, "redis") > before, 30, "the failure is counted")
    assert said(box, "infbox-lmcache", text, begun)
    forget(box)
    again = ask(box, prompt(seed, WORDS))
    assert again.text == first.text
    assert again.loaded, "RAM has it all the same"
    box.run(mend)
    until(keeps(box, "redis", seed + 1), 90, "Redis keeps KV again")


def test_a_daemon_that_hangs_is_waited_for_so_long_and_then_done_without(box: LiveBox) -> None:
    first = ask(box, prompt(2000, WORDS))
    wait_until_stored(box)
    forget(box)
    box.run("systemctl kill --signal STOP infbox-lmcache")
    begun = time.monotonic()
    try:
        again = ask(box, prompt(2000, WORDS))
    finally:
        box.run("systemctl kill --signal CONT infbox-lmcache")
    assert again.text == first.text
    assert not again.loaded
    assert time.monotonic() - begun < 60, "some beats of waiting, and what it takes to compute"
    until(lambda: state(box)["engines"] == 1, 30, "the engine is registered")
    # Of a try that had to compute it, the engine's own cache must not answer the next one.
    until(lambda: forget(box) or ask(box, prompt(2000, WORDS)).loaded, 30, "KV is found again")


@pytest.mark.kv_long
@pytest.mark.usefixtures("redis_again")
def test_a_slow_redis_is_waited_for(box: LiveBox) -> None:
    cold = ask(box, prompt(3000, WORDS))
    wait_until_stored(box)
    another_daemon(box, f"rm {CHUNKS}/*/*")
    stop = threading.Event()

    def slow() -> None:
        """Every call waits for up to 200 ms."""
        while not stop.is_set():
            box.run(f"for i in $(seq 20); do {REDIS} client pause 200 all; sleep 0.205; done", check=False)

    pausing = threading.Thread(target=slow)
    pausing.start()
    try:
        time.sleep(1)
        again = ask(box, prompt(3000, WORDS))
        assert again.text == cold.text
        assert again.loaded
    finally:
        stop.set()
        pausing.join()


@pytest.mark.kv_long
def test_a_full_and_a_read_only_disk_cost_no_answer(box: LiveBox) -> None:
    """A file system of 20 MB, one chunk and a bit, in place of the folder of chunks."""
    begun = now(box)
    folder = box.run(f"ls -d {CHUNKS}/*")
    try:
        another_daemon(box, f"mount -t tmpfs -o size=20m,mode=700,uid=infbox-vllm,gid=infbox-vllm tmpfs {folder}")
        first = ask(box, prompt(4001, 300))
        until(lambda: failures(box, "disk") > 0, 30, "the failure is counted")
        assert said(box, "infbox-lmcache", "disk: KV is not kept there: no room: .*MiB are free", begun)
        forget(box)
        again = ask(box, prompt(4001, 300))
        assert again.text == first.text
        assert again.loaded
        # It recovers by itself.
        box.run(f"mount -o remount,size=250m {folder}")
        until(keeps(box, "disk", 4010), 60, "the disk keeps KV again")
        # Read-only at the start: RAM and Redis alone, and said.
        another_daemon(box, f"umount {folder} && mount -t tmpfs -o ro,mode=000 tmpfs {folder}")
        assert ask(box, prompt(4002, WORDS)).text
        assert said(box, "infbox-lmcache", "no disk until the next start", begun)
    finally:
        another_daemon(box, f"(umount {folder}; true)")
    assert tier(box, "disk")["capacity_bytes"]
