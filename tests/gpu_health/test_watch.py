"""What is done about errors, with a clock and an engine of the test's own."""

import pytest

from infbox.gpu_health.watch import ASK_AGAIN_SECONDS, GRACE_SECONDS, HOUR, MOST_KINDS, Watch
from infbox.gpu_health.xid import Xid

GPU = "0000:17:00"
PENDING = {"address": f"{GPU}.0", "kind": "remap_pending", "what": "memory failed", "hint": "reset it"}
SILENT = {"address": "", "kind": "driver", "what": "nvidia-smi does not answer within 60 s", "hint": "reboot"}


class Engine:
    """Runs since `began`; `states` are its answers, the last one for ever."""

    def __init__(self, began: float | None = 0.0, *states: bool | None) -> None:
        self.began, self.states, self.asked = began, list(states), 0

    def since(self) -> float | None:
        return self.began

    def answers(self) -> bool | None:
        self.asked += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(said: list[str]) -> Watch:
    return Watch(restarts_per_hour=2, say=said.append)


def run(watch: Watch, engine: Engine, begin: float, seconds: float = 120.0) -> list[float]:
    """The times at which the engine was to be restarted, a second at a time; a restart makes it new."""
    restarted: list[float] = []
    for step in range(int(seconds)):
        if watch.decide(begin + step, engine):
            restarted.append(begin + step)
            engine.began = begin + step + 1
    return restarted


def test_an_engine_that_does_not_answer_after_an_error_is_restarted(watch: Watch, said: list[str]) -> None:
    watch.see(Xid(100.0, GPU, 31))
    assert run(watch, Engine(0.0, False), 100.0) == [100.0 + GRACE_SECONDS + ASK_AGAIN_SECONDS]
    assert said == [
        f"Xid 31 of the GPU at {GPU}: a program used memory of the GPU that is not its own",
        f"the engine does not answer after Xid 31 of the GPU at {GPU}: restarting it",
    ]
    assert (watch.restarts_total, watch.alarms) == (1, [])


def test_one_that_answers_goes_on_since_another_program_erred(watch: Watch, said: list[str]) -> None:
    engine = Engine(0.0, True)
    watch.see(Xid(100.0, GPU, 13))
    assert run(watch, engine, 100.0) == []
    assert engine.asked == 1
    assert said[-1] == "the engine answers after Xid 13: left alone"


def test_one_that_was_busy_for_a_minute_goes_on(watch: Watch) -> None:
    watch.see(Xid(100.0, GPU, 13))
    assert run(watch, Engine(0.0, False, True), 100.0) == []


def test_one_that_started_since_or_is_starting_or_stopped_is_left_alone(watch: Watch) -> None:
    for engine in (Engine(101.0, False), Engine(0.0, None), Engine(None, False)):
        watch.see(Xid(100.0, GPU, 45))
        assert run(watch, engine, 100.0) == []
    assert watch.alarms == []


def test_a_flood_is_one_restart(watch: Watch, said: list[str]) -> None:
    engine = Engine(0.0, False)
    restarted: list[float] = []
    for second in range(60):
        for _ in range(1000):
            watch.see(Xid(100.0 + second, GPU, 13))
        restarted += run(watch, engine, 100.0 + second, 1)
    assert len(restarted) == 1
    assert len(said) == 2
    assert watch.counts[GPU, 13] == 60_000


def test_restarts_have_a_limit_and_then_a_person_is_told(watch: Watch, said: list[str]) -> None:
    engine = Engine(0.0, False)
    restarted: list[float] = []
    for number in range(4):
        begin = 200.0 + number * 200
        watch.see(Xid(begin, GPU, 94))
        restarted += run(watch, engine, begin)
    assert len(restarted) == 2
    (alarm,) = watch.alarms
    assert "was restarted 2 times within an hour: no more" in alarm.what
    watch.see(Xid(2 * HOUR, GPU, 94))
    assert len(run(watch, engine, 2 * HOUR)) == 1


def test_the_limit_holds_over_a_restart_of_the_watch(said: list[str]) -> None:
    again = Watch(restarts_per_hour=1, say=said.append, restarts=[90.0], restarts_total=1)
    again.see(Xid(100.0, GPU, 13))
    assert run(again, Engine(0.0, False), 100.0) == []
    assert "no more" in again.alarms[0].what


def test_no_restarts_at_all_can_be_asked_for(said: list[str]) -> None:
    watch = Watch(restarts_per_hour=0, say=said.append)
    watch.see(Xid(100.0, GPU, 13))
    assert run(watch, Engine(0.0, False), 100.0) == []
    assert len(watch.alarms) == 1


def test_the_log_of_before_restarts_nothing(watch: Watch) -> None:
    """A watch reads the whole boot's log when it starts; the engine was started since."""
    for at in range(100, 200):
        watch.see(Xid(float(at), GPU, 31))
    engine = Engine(500.0, False)
    assert run(watch, engine, 1000.0) == []
    assert engine.asked == 0


@pytest.mark.parametrize(
    ("number", "text", "words"),
    [
        (79, "GPU has fallen off the bus.", "reboot the machine"),
        (74, "", "nvidia-smi nvlink"),
        (95, "", "nvidia-smi --gpu-reset"),
        (119, "", "nvidia-smi --gpu-reset"),
        (54, "", "power cables"),
        (61, "", "nvidia-bug-report.sh"),
        (154, "GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", "reboot the machine"),
    ],
)
def test_what_a_restart_does_not_mend_is_an_alarm(
    watch: Watch, said: list[str], number: int, text: str, words: str
) -> None:
    engine = Engine(0.0, False)
    for at in (100.0, 101.0, 102.0):
        watch.see(Xid(at, GPU, number, text))
    assert run(watch, engine, 100.0) == []
    (alarm,) = watch.alarms
    assert words in alarm.hint
    assert alarm.since == 100.0
    assert len(said) == 1
    assert said[0].startswith(f"ALARM: Xid {number} of the GPU at {GPU}: ")


def test_an_unknown_number_is_told_once_and_counted(watch: Watch, said: list[str]) -> None:
    for at in (100.0, 101.0):
        watch.see(Xid(at, GPU, 4711, "something new"))
    assert run(watch, Engine(0.0, False), 100.0) == []
    assert said == [f"Xid 4711 of the GPU at {GPU}: something new; not known here: nothing is done"]
    assert (watch.counts[GPU, 4711], watch.alarms) == (2, [])


def test_a_flood_of_kinds_takes_no_memory_without_end(watch: Watch, said: list[str]) -> None:
    for number in range(10 * MOST_KINDS):
        watch.see(Xid(100.0, f"{number:04x}:00:00", 79))
    assert len(watch.counts) == len(watch.alarms) == len(said) == MOST_KINDS


def test_what_a_person_has_seen_to_is_no_alarm_even_after_a_restart_of_the_watch(watch: Watch) -> None:
    watch.see(Xid(100.0, GPU, 95))
    watch.see(Xid(100.0, GPU, 13))
    watch.clear(150.0)
    assert watch.alarms == []
    assert run(watch, Engine(0.0, False), 150.0) == []
    watch.see(Xid(100.0, GPU, 95))
    assert watch.alarms == []
    watch.see(Xid(160.0, GPU, 95))
    assert len(watch.alarms) == 1


def test_a_driver_that_asks_for_nothing_any_more_ends_its_gpus_alarms(watch: Watch) -> None:
    for gpu in (GPU, "0000:18:00"):
        watch.see(Xid(100.0, gpu, 95))
        watch.see(Xid(100.0, gpu, 154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"))
    watch.see(Xid(200.0, GPU, 154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"))
    assert {alarm.address for alarm in watch.alarms} == {"0000:18:00"}


def test_what_the_driver_says_is_an_alarm_as_long_as_it_says_it(watch: Watch, said: list[str]) -> None:
    for now in (1.0, 2.0):
        watch.see_health([PENDING], now)
    assert [(alarm.since, str(alarm)) for alarm in watch.alarms] == [(1.0, f"the GPU at {GPU}.0: memory failed")]
    watch.see_health([PENDING | {"what": "more memory failed"}], 3.0)
    assert watch.alarms[0].what == "more memory failed"
    watch.clear(4.0)
    assert len(watch.alarms) == 1
    watch.see_health([], 5.0)
    assert watch.alarms == []
    assert said == [
        f"ALARM: the GPU at {GPU}.0: memory failed (to do: reset it)",
        f"over: the GPU at {GPU}.0: more memory failed",
    ]


def test_a_driver_that_hangs_does_not_end_alarms(watch: Watch) -> None:
    watch.see_health([PENDING], 1.0)
    watch.see_health([SILENT], 2.0, silent=True)
    assert [alarm.kind for alarm in watch.alarms] == ["remap_pending", "driver"]
    watch.see_health([PENDING], 3.0)
    assert [alarm.kind for alarm in watch.alarms] == ["remap_pending"]
