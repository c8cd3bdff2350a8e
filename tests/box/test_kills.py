"""Each part of the box is killed while it works: the box answers again by itself, and no cut answer looks whole.

A start of the engine takes most of a minute, so each test makes all it can of one.
"""

import http.client
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_box import LiveBox, until
from streams import LONG, VERSIONS, Stream

PROMPT = "Tell me a very long story about a lighthouse."


def two_streams(box: LiveBox, **body: object) -> list[Stream]:
    """A long stream over each version of HTTP, both well under way."""
    streams = [Stream(box, version, PROMPT, **(LONG | body)) for version in VERSIONS]
    return [stream.wait_for_text() for stream in streams]


def short_stream(box: LiveBox) -> Stream:
    """One that has begun and ends by itself within seconds.

    On a busy machine all of an answer can come at once, and is at its end when it is seen: another is asked for.
    """
    for _ in range(10):
        stream = Stream(box, "h2", "Count from one to ten.", max_tokens=32, ignore_eos=True).wait_for_begin()
        if not stream.ending:
            return stream
    raise AssertionError(f"each of 10 answers was at its end when it was seen to begin: {stream}")


def expect_error_event(stream: Stream) -> None:
    """What an engine's end looks like: the stream says that it broke, in an event, and ends as HTTP has it."""
    stream.wait_for_end()
    assert stream.failed, stream
    assert not stream.done, stream
    assert stream.ending == "clean", stream


def expect_transport_error(stream: Stream) -> None:
    """What the end of gateway or Caddy looks like: HTTP itself says that something is missing."""
    stream.wait_for_end()
    assert stream.ending != "clean", stream
    assert not stream.done, stream


def engine_pid(box: LiveBox, what: str) -> int:
    if what == "main":
        return box.main_pid("infbox-vllm")
    return int(box.run("pgrep --uid infbox-vllm --full VLLM::EngineCore | head -1"))


@pytest.mark.parametrize("what", ["main", "core"])
def test_the_engines_sudden_end_is_an_error_event_and_mends_itself(box: LiveBox, what: str):
    pid, restarts = engine_pid(box, what), box.restarts("infbox-vllm")
    streams = two_streams(box)
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(box.request, "POST", "/v1/completions",
                            {"model": box.model, "prompt": PROMPT, **LONG}, box.api_key)  # fmt: skip
        until(lambda: box.metric("vllm:num_requests_running") == 3, 30, "three requests run")
        box.run(f"kill -KILL {pid}")
        for stream in streams:
            expect_error_event(stream)
        try:
            status, _, answer = whole.result(60)
            assert status in (500, 502, 503), answer
            assert b'"error"' in answer
        except (OSError, http.client.HTTPException):
            pass  # as good
    status, _, answer = box.request("POST", "/v1/completions", {"model": box.model, "prompt": "x"}, box.api_key)
    assert status in (200, 500, 502, 503)
    assert status == 200 or b'"error"' in answer
    box.wait_until_answering()
    assert "Paris" in box.chat("What is the capital of France?")["choices"][0]["message"]["content"]
    assert box.restarts("infbox-vllm") == restarts + 1
    assert box.metric("vllm:num_requests_running") == 0


def test_a_restart_of_the_engine_lets_short_answers_finish_and_says_that_long_ones_broke(box: LiveBox):
    streams = two_streams(box)
    short = short_stream(box)
    box.run("systemctl restart --no-block infbox-vllm")
    short.wait_for_end()
    assert (short.ending, short.done, short.failed) == ("clean", True, False), short
    for stream in streams:
        expect_error_event(stream)
    box.wait_until_answering()


@pytest.mark.parametrize("unit", ["infbox-gateway", "infbox-caddy"])
def test_a_sudden_end_before_the_engine_is_a_transport_error_and_mends_itself(box: LiveBox, unit: str):
    restarts = box.restarts(unit)
    streams = two_streams(box)
    box.run(f"systemctl kill --signal=KILL {unit}")
    for stream in streams:
        expect_transport_error(stream)
    assert box.wait_until_answering("/ready", 60) < 60
    assert box.restarts(unit) == restarts + 1
    until(lambda: box.metric("vllm:num_requests_running") == 0, 60, "the engine does no work for clients that are cut")


@pytest.mark.parametrize("unit", ["infbox-gateway", "infbox-caddy"])
def test_a_restart_before_the_engine_lets_short_answers_finish_and_cuts_long_ones(box: LiveBox, unit: str):
    streams = two_streams(box)
    short = short_stream(box)
    box.run(f"systemctl restart --no-block {unit}")
    short.wait_for_end()
    assert (short.ending, short.done, short.failed) == ("clean", True, False), short
    for stream in streams:
        expect_transport_error(stream)
    box.wait_until_answering("/ready", 60)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_leaves_ends_the_engines_work(box: LiveBox, version: str):
    before = box.metric("vllm:generation_tokens_total")
    stream = Stream(box, version, PROMPT, **LONG).wait_for_text()
    assert box.metric("vllm:num_requests_running") == 1
    stream.leave()
    until(lambda: box.metric("vllm:num_requests_running") == 0, 30, "the engine drops what nobody waits for")
    assert box.metric("vllm:generation_tokens_total") - before < LONG["max_tokens"] / 2


def test_a_client_that_leaves_during_a_long_prefill_ends_the_engines_work(box: LiveBox):
    before = box.metric("vllm:generation_tokens_total")
    stream = Stream(box, "h2", "Of lighthouses and keepers. " * 900, max_tokens=1500, ignore_eos=True)
    until(lambda: box.metric("vllm:num_requests_running") == 1, 30, "the prefill begins")
    assert stream.data == b"", "the prompt is too short for this test on this machine"
    stream.leave()
    until(lambda: box.metric("vllm:num_requests_running") == 0, 60, "the engine drops what nobody waits for")
    assert box.metric("vllm:generation_tokens_total") - before < 100
