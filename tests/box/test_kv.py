"""KV that outlives the engine, on a box with LMCache's daemon: `pytest tests/box -m kv --box .demo/box.json`.

The box has 1 GiB of RAM, a quarter of a GiB of disk and half a GiB of Redis for it. Counts of tokens are the engine's
own. An answer from KV that was loaded has to be the one that was computed, token by token.
"""

import pytest
from kept import (
    CHUNKS,
    LONG,
    REDIS,
    STATE,
    Seen,
    another_daemon,
    ask,
    converge,
    forget,
    now,
    prompt,
    restart,
    said,
    tier,
    wait_until_stored,
)
from live_box import LiveBox

pytestmark = pytest.mark.kv


@pytest.fixture(scope="module")
def first(box: LiveBox) -> Seen:
    """The answer to a prompt that was computed."""
    seen = ask(box, prompt(1))
    assert seen.cached < 256
    wait_until_stored(box)
    return seen


def test_the_boxs_own_check_compares_an_answer_with_the_computed_one(box: LiveBox) -> None:
    assert "the answer is the one that was computed" in box.run("infbox kv check", timeout=180)


def test_an_engine_that_forgot_has_it_from_ram(box: LiveBox, first: Seen) -> None:
    forget(box)
    again = ask(box, prompt(1))
    assert again.text == first.text
    assert again.loaded


def test_a_restarted_engine_has_it_from_ram_and_nothing_is_left_of_the_one_before(box: LiveBox, first: Seen) -> None:
    restart(box, "infbox-vllm")
    again = ask(box, prompt(1))
    assert again.text == first.text
    assert again.loaded
    segments = box.run("ls /dev/shm/infbox/shm").split()
    assert len([name for name in segments if name.startswith("lmcache_kv_")]) == 1, segments
    mapped = box.run(f"grep lmcache_kv_ /proc/{box.main_pid('infbox-lmcache')}/maps").splitlines()
    assert len({line.split()[4] for line in mapped}) == 1, mapped


def test_after_a_restart_of_the_daemon_it_is_had_from_disk_and_stays_in_ram(box: LiveBox, first: Seen) -> None:
    another_daemon(box)
    again = ask(box, prompt(1))
    assert again.text == first.text
    assert again.loaded
    assert tier(box, "disk")["loaded_chunks"] >= 2
    assert tier(box, "redis")["loaded_chunks"] == 0
    # Lifted from disk, it is not read from there a second time.
    forget(box)
    assert ask(box, prompt(1)).loaded
    assert tier(box, "disk")["loaded_chunks"] == 2


def test_a_damaged_a_cut_and_a_foreign_chunk_are_computed_again(box: LiveBox, first: Seen) -> None:
    begun = now(box)
    cold = ask(box, prompt(4, LONG))
    wait_until_stored(box)
    # The prompt's own four chunks are those that were written last.
    damaged, cut, foreign, source = box.run(f"ls -t {CHUNKS}/*/* | head -4").split()
    box.run(f"printf X | dd of={damaged} bs=1 seek=5000000 conv=notrunc status=none")
    another_daemon(box, f"redis-cli -s {REDIS} flushall && truncate --size 100000 {cut} && cp {source} {foreign}")
    again = ask(box, prompt(4, LONG))
    assert again.text == cold.text
    assert not again.loaded
    assert said(box, "infbox-lmcache", "computed again", begun)
    assert box.metric("vllm:num_requests_running") == 0
    wait_until_stored(box)
    # What was no good was stored anew.
    another_daemon(box, f"redis-cli -s {REDIS} flushall")
    healed = ask(box, prompt(4, LONG))
    assert healed.text == cold.text
    assert healed.loaded


@pytest.mark.parametrize("words", [(), ("--check",)], ids=["run", "dry run"])
def test_another_run_changes_nothing(box: LiveBox, words: tuple[str, ...]) -> None:
    said_by_ansible = converge(box, *words)
    assert " changed=0 " in said_by_ansible, said_by_ansible[-3000:]


def test_nobody_else_reaches_it(box: LiveBox) -> None:
    listening = box.run("ss --listening --tcp --numeric")
    assert ":5555" not in listening
    assert ":6379" not in listening
    nobody = "runuser -u nobody --"
    places = ("/run/infbox-lmcache/lmcache.sock", REDIS, f"{STATE}/key", "/dev/shm/infbox/x")
    for place in places:
        denied = box.run(f"{nobody} cat {place} 2>&1; true")
        assert "Permission denied" in denied, denied
    assert box.run(f"stat --format %a {STATE} {STATE}/key").split() == ["700", "600"]


def test_it_tells_nobody_of_itself(box: LiveBox) -> None:
    daemon = box.main_pid("infbox-lmcache")
    assert "LMCACHE_TRACK_USAGE=false" in box.run(f"tr '\\0' '\\n' </proc/{daemon}/environ").split()
    devices = box.run(f"nsenter --target {daemon} --net cat /proc/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"], devices


def test_its_state_and_its_metrics_are_told(box: LiveBox) -> None:
    told = box.run("infbox kv status")
    for text in ("healthy", "of 1.00 GiB", "of 0.25 GiB", "redis", "default", "asked for"):
        assert text in told, told
    scraped = box.ask_engine("GET", "/metrics", socket="/run/infbox-lmcache/lmcache.sock")
    names = ("lmcache_mp_lookup_requested_tokens_total", "lmcache_mp_lookup_hit_l1_tokens_total")
    names += ("infbox_kv_bytes", "infbox_kv_loaded_chunks_total", "infbox_kv_refused_chunks_total")
    for name in (*names, "infbox_kv_failures_total", "lmcache_mp_l1_usage_ratio"):
        assert f"# TYPE {name.removesuffix('_total')}" in scraped, name
