"""When a machine may stop: the decision with a clock of the test's own, and what each look reads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from infbox.cli import main
from infbox.commands import idle as command
from infbox.gateway.activity import Activity
from infbox.idle import Looker, Seen, UnknownError, Verdict, Watch, boottime, read_activity

AFTER = 1800.0
BOOT = 100.0


def watch() -> Watch:
    return Watch(AFTER, BOOT)


def test_a_machine_that_just_booted_gets_its_whole_time() -> None:
    judge = watch().judge
    assert judge(Seen(BOOT, 0.0)) == Verdict(False, "no request for 1.7 min, nobody logged in for 0.0 min", AFTER)
    assert judge(Seen(BOOT + AFTER - 1, 0.0)).stop is False
    assert judge(Seen(BOOT + AFTER, 0.0)).stop is True


def test_a_request_begins_the_time_anew() -> None:
    judge = watch().judge
    assert judge(Seen(BOOT + AFTER, BOOT + 60)).stop is False
    assert judge(Seen(BOOT + AFTER + 59, BOOT + 60)).stop is False
    assert judge(Seen(BOOT + AFTER + 60, BOOT + 60)) == Verdict(
        True, "no request for 30 min, nobody logged in for 31 min", 0.0
    )


@pytest.mark.parametrize("why", [{"busy": ("1 request in flight",)}, {"logged_in": ("root is logged in (session 3)",)}])
def test_what_goes_on_now_keeps_it_up_and_begins_the_time_anew(why: dict[str, tuple[str, ...]]) -> None:
    judge = watch().judge
    late = BOOT + 10 * AFTER
    verdict = judge(Seen(late, 0.0, busy=why.get("busy", ()), logged_in=why.get("logged_in", ())))
    assert verdict == Verdict(False, next(iter(why.values()))[0], AFTER)
    assert judge(Seen(late + AFTER - 1, 0.0)).stop is False
    assert judge(Seen(late + AFTER, 0.0)).stop is True


def test_a_login_that_came_and_went_between_two_looks_counts() -> None:
    judge = watch().judge
    assert judge(Seen(BOOT + AFTER, 0.0, logins_changed=True)).stop is False
    assert judge(Seen(BOOT + AFTER + 1, 0.0)).stop is False
    assert judge(Seen(BOOT + 2 * AFTER, 0.0)).stop is True


def test_what_cannot_be_known_keeps_it_up_and_says_so() -> None:
    judge = watch().judge
    late = BOOT + 10 * AFTER
    verdict = judge(Seen(late, 0.0, unknown=("the gateway's record cannot be read",)))
    assert verdict == Verdict(
        False, "cannot tell whether the machine is idle: the gateway's record cannot be read", None
    )
    assert judge(Seen(late + 1, 0.0)).stop is False
    assert judge(Seen(late + AFTER, 0.0)).stop is True


def record(path: Path, **change: object) -> Path:
    path.write_text(json.dumps({"in_flight": 0, "last_request": 90.0, "written": 99.0} | change))
    return path


def test_the_gateways_record_is_read(tmp_path: Path) -> None:
    assert read_activity(record(tmp_path / "a", in_flight=2), 100.0) == (2, 90.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("null", "cannot be read"),
        ("{}", "cannot be read"),
        ("\x00\xff", "cannot be read"),
        ('{"in_flight": "x", "last_request": 1.0, "written": 99.0}', "is not what the gateway writes"),
        ('{"in_flight": 0, "last_request": NaN, "written": 99.0}', "is from the future"),
        ('{"in_flight": 0, "last_request": 9000.0, "written": 9001.0}', "is from the future"),
        ('{"in_flight": 0, "last_request": 1.0, "written": 2.0}', "1.6 min old: does the gateway run?"),
    ],
)
def test_a_record_that_says_nothing_is_never_taken_for_idle(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "activity.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UnknownError, match=said.replace("?", r"\?")):
        read_activity(path, 100.0)


SESSION = "Id={}\nName={}\nClass={}\nState={}\n"


class Systemd:
    """Stands in for systemctl and loginctl."""

    def __init__(self) -> None:
        self.sessions: dict[str, tuple[str, str, str]] = {}
        self.units = "Id=infbox-gateway.service\nActiveState=active\nNRestarts=0\n"
        self.silent = ""
        self.ending = ""  # a session that ends after it was listed

    def __call__(self, words: Sequence[str]) -> str:
        if words[0] == self.silent:
            raise UnknownError(f"`{self.silent}` does not answer")
        if words[1] == "list-sessions":
            return "".join(f" {name}  0 root -\n" for name in self.sessions)
        if words[1] == "show-session" and self.ending in words:
            del self.sessions[self.ending]
            self.ending = ""
            raise UnknownError("`loginctl show-session` failed: No session known")
        if words[1] == "show-session":
            return "\n".join(SESSION.format(name, *self.sessions[name]) for name in words[2:-4])
        return self.units


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def looker(systemd: Systemd, tmp_path: Path) -> Looker:
    (tmp_path / "sessions").mkdir()
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cmdline").write_bytes(b"vim\0ansible-playbook\0")
    return Looker(record(tmp_path / "activity"), systemd, lambda: 100.0, tmp_path / "proc", tmp_path / "sessions")


def test_a_quiet_machine_looks_quiet(looker: Looker) -> None:
    (looker._proc / "7" / "cmdline").write_bytes(b"vim\0notes\0")  # pyright: ignore[reportPrivateUsage]
    assert looker.look() == Seen(100.0, 90.0)


def test_people_are_logged_in_and_cron_and_what_they_left_behind_are_not(looker: Looker, systemd: Systemd) -> None:
    systemd.sessions = {"3": ("alice", "user", "active"), "4": ("root", "user-early", "online"),
                        "5": ("bob", "user", "closing"), "c1": ("root", "background", "active"),
                        "6": ("root", "manager", "active")}  # fmt: skip
    assert looker.look().logged_in == (
        "alice is logged in (session 3)",
        "root is logged in (session 4)",
    )


def test_a_session_that_ends_while_it_is_asked_about_hides_nobody(looker: Looker, systemd: Systemd) -> None:
    systemd.sessions = {"3": ("alice", "user", "active"), "4": ("bob", "user", "active")}
    systemd.ending = "4"
    seen = looker.look()
    assert seen.logged_in == ("alice is logged in (session 3)",)
    assert seen.unknown == ()


def test_a_session_between_two_looks_is_seen(looker: Looker, tmp_path: Path) -> None:
    assert looker.look().logins_changed is False
    assert looker.look().logins_changed is False
    os.utime(tmp_path / "sessions", (5, 5))
    assert looker.look().logins_changed is True
    assert looker.look().logins_changed is False


def test_a_service_that_starts_for_the_first_time_is_waited_for(looker: Looker, systemd: Systemd) -> None:
    starting = "Id=infbox-vllm.service\nActiveState=activating\nNRestarts={}\n"
    systemd.units += "\n" + starting.format(0)
    assert "infbox-vllm.service is starting" in looker.look().busy
    systemd.units = starting.format(7)
    assert "infbox-vllm.service is starting" not in looker.look().busy


def test_a_playbook_on_the_machine_itself_is_waited_for(looker: Looker, tmp_path: Path) -> None:
    command_line = tmp_path / "proc" / "7" / "cmdline"
    for words in (b"/usr/bin/python3\0/opt/venv/bin/ansible-playbook\0site.yml\0", b"ansible-playbook\0site.yml\0"):
        command_line.write_bytes(words)
        assert looker.look().busy == ("a playbook runs (process 7)",)
    command_line.write_bytes(b"less\0-N\0ansible-playbook\0")
    assert looker.look().busy == ()


def test_sessions_of_which_nothing_is_said_are_not_taken_for_none(looker: Looker, systemd: Systemd) -> None:
    systemd.sessions = {"3": ("alice", "user", "active")}
    looker._run = lambda words: systemd(words) if words[1] == "list-sessions" else "\n"  # pyright: ignore
    assert "does not say what the sessions 3 are" in looker.look().unknown[0]


@pytest.mark.parametrize("program", ["loginctl", "systemctl"])
def test_a_systemd_that_does_not_answer_keeps_the_machine_up(looker: Looker, systemd: Systemd, program: str) -> None:
    systemd.silent = program
    assert looker.look().unknown == (f"`{program}` does not answer",)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_the_gateway_writes_when_its_last_request_was(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "activity.json"
    activity = Activity(path, clock)
    activity.write()
    assert read_activity(path, clock.now) == (0, 50.0)
    clock.now = 60.0
    activity.write()
    assert read_activity(path, clock.now) == (0, 50.0)
    with activity.request():
        clock.now = 70.0
        activity.write()
        assert read_activity(path, clock.now) == (1, 70.0)
        clock.now = 80.0
        activity.write()
        assert read_activity(path, clock.now) == (1, 80.0)
    clock.now = 85.0
    activity.write()
    assert read_activity(path, clock.now) == (0, 85.0)
    clock.now = 90.0
    activity.write()
    assert read_activity(path, clock.now) == (0, 85.0)
    with pytest.raises(RuntimeError), activity.request():
        raise RuntimeError
    activity.write()
    assert read_activity(path, clock.now) == (0, 90.0)


def test_a_gateway_that_cannot_write_goes_on_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    activity = Activity(tmp_path / "missing" / "activity.json")
    activity.write()
    activity.write()
    assert len(caplog.records) == 1
    assert "will not stop by itself" in caplog.text
    Activity(None).write()


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "five"])
def test_a_time_that_is_none_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IDLE_STOP_AFTER_MINUTES", value)
    assert main(["idle", "watch"]) == 1
    assert f"IDLE_STOP_AFTER_MINUTES is {value!r}" in capsys.readouterr().err


def test_the_status_is_what_the_watch_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "STATUS", tmp_path / "status.json")
    assert main(["idle", "status"]) == 0
    assert "idle stop is off" in capsys.readouterr().out
    status = {"why": "no request for 5.0 min", "stops_in": 300.0, "after_seconds": 600.0, "written": boottime()}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert main(["idle", "status"]) == 0
    assert capsys.readouterr().out == (
        "no request for 5.0 min\nstops in 5.0 min if nothing else happens (idle_stop_after_minutes is 10)\n"
    )
    (tmp_path / "status.json").write_text("{")
    assert main(["idle", "status"]) == 1
