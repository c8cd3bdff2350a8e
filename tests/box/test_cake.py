"""Cake on the box: what it leans on, its wiring, and many prompts at once with all that can go wrong meanwhile."""

import json
from typing import Any

import pytest
from kept import LONG, ask, prompt, run_program, state
from live_box import LiveBox

CHECK = "/opt/infbox/vllm/bin/python -m infbox.cake.versions"
PARALLEL = ["--tensor-parallel-size", "2"]


@pytest.mark.kv
def test_vllm_and_lmcache_do_what_cake_leans_on(box: LiveBox) -> None:
    broken = {name: why for name, why in run_program(box, "cake_invariants_program.py").items() if why}
    assert not broken, f"infbox.cake needs a look before this engine is one of its versions: {broken}"


def soak(box: LiveBox, requests: int, seconds: int, **options: Any) -> dict[str, Any]:
    given = json.dumps({"requests": requests, **options})
    told = run_program(box, "cake_program.py", given, seconds=seconds)
    print(told)
    assert set(told["came"]) <= {"equal", "aborted"}, told
    assert sum(told["came"].values()) == requests
    assert told["left"] == 0
    assert told["usage"] == [0, 0], "every block is free again"
    assert told["back"] > 0, "what was stored again is loaded"
    assert told["cake"]["prompts"]["split"] > 0
    assert told["cake"]["tokens"]["loaded"] > 0
    return told


@pytest.mark.kv
def test_every_answer_is_the_computed_one_and_nothing_is_left(box: LiveBox) -> None:
    soak(box, 20, 180)


@pytest.mark.kv_long
@pytest.mark.parametrize(
    "options", [{}, {"words": PARALLEL}, {"redis": True}], ids=["one worker", "tensor parallel", "Redis"]
)
def test_two_hundred_answers_are_the_computed_ones(box: LiveBox, options: dict[str, Any]) -> None:
    told = soak(box, 200, 900, **options)
    assert told["preemptions"] > 0
    assert told["cake"]["fallbacks"]


@pytest.mark.kv
def test_the_engine_has_it_and_the_daemon_says_what_came_of_prompts(box: LiveBox) -> None:
    assert "/etc/infbox/vllm-cake.yml" in box.run("systemctl show --property ExecStart infbox-vllm")
    assert "--config /etc/infbox/vllm-cake.yml" in box.run("tr '\\0' ' ' </proc/$(pidof -s -x vllm)/cmdline")
    before = state(box)["cake"]["prompts"].get("load", 0)
    ask(box, asked := prompt(170_318, LONG))
    ask(box, asked)
    assert state(box)["cake"]["prompts"]["load"] > before
    assert "Cake" in box.run("infbox kv status")
    scraped = box.ask_engine("GET", "/metrics", socket="/run/infbox-lmcache/lmcache.sock")
    assert 'infbox_cake_prompts_total{how="load"}' in scraped


@pytest.mark.kv
def test_with_another_engine_it_is_off_and_says_why(box: LiveBox) -> None:
    box.run(CHECK)
    other = "/run/infbox-test-other/vllm-9.9.9.dist-info"
    box.run(f"mkdir -p {other} && printf 'Metadata-Version: 2.1\\nName: vllm\\nVersion: 9.9.9\\n' >{other}/METADATA")
    said = box.run(f"PYTHONPATH=/run/infbox-test-other {CHECK} 2>&1; echo status $?")
    assert "vllm is 9.9.9, and it was tested with" in said
    assert "status 1" in said
