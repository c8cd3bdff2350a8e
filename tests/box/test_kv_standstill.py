"""A daemon that stands still, or is killed, while it has an engine's memory."""

import pytest
from kept import ask, forget, now, prompt, run_program, said, state, wait_until_stored
from live_box import LiveBox, until

pytestmark = pytest.mark.kv


def test_memory_is_an_engines_again_when_the_daemon_is_done_with_it(box: LiveBox) -> None:
    broken = {name: why for name, why in run_program(box, "kv_standstill_program.py").items() if why}
    assert not broken


@pytest.mark.kv_long
def test_one_that_goes_on_hanging_is_ended_and_the_next_one_is_used(box: LiveBox) -> None:
    begun = now(box)
    first = ask(box, prompt(3000, 150))
    wait_until_stored(box)
    forget(box)
    box.run("systemctl kill --signal STOP infbox-lmcache")
    assert ask(box, prompt(3000, 150)).text == first.text
    until(lambda: said(box, "infbox-lmcache", "[Ww]atchdog timeout", begun), 60, "systemd ends it")
    box.run("systemctl start infbox-lmcache", timeout=150)
    until(lambda: state(box)["engines"] == 1, 60, "the engine is registered with the next one")
    until(lambda: forget(box) or ask(box, prompt(3000, 150)).loaded, 60, "KV is found again")
