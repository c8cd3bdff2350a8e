"""Whether the machine is idle, and may stop: decisions, and what they rest on. The unit runs `infbox idle watch`.

Idle is: for N minutes no request to the gateway and nobody logged in; and now no request open, no playbook running,
no service starting for the first time. Whatever cannot be known keeps the machine up. Ages are told by CLOCK_BOOTTIME,
which goes on in a suspend and which nobody sets.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from infbox.errors import InfboxError

SESSIONS = Path("/run/systemd/sessions")
PROC = Path("/proc")
# The gateway writes every 5 s; one that has not for this long hangs, or cannot write.
STALE_SECONDS = 60.0
PLAYBOOK = "ansible-playbook"
Run = Callable[[Sequence[str]], str]


def boottime() -> float:
    """Seconds since the kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class UnknownError(InfboxError):
    """Something that a decision rests on cannot be read."""


@dataclass(frozen=True)
class Seen:
    """One look at the machine, at `now` (seconds of CLOCK_BOOTTIME). `busy`: reasons to stay up at this moment."""

    now: float
    last_request: float
    busy: tuple[str, ...] = ()
    logged_in: tuple[str, ...] = ()
    logins_changed: bool = False
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What is to be done. `stops_in`: seconds until the machine may stop, if nothing happens; None if not known."""

    stop: bool
    why: str
    stops_in: float | None = None


@dataclass
class Watch:
    """Remembers from look to look. Its own start counts as use: the machine has just booted."""

    after_seconds: float
    last_active: float
    last_login: float = field(init=False)

    def __post_init__(self) -> None:
        self.last_login = self.last_active

    def judge(self, seen: Seen) -> Verdict:
        """Stop, or why not."""
        if seen.logged_in or seen.logins_changed:
            self.last_login = seen.now
        if seen.busy or seen.unknown:
            self.last_active = seen.now
        self.last_active = max(self.last_active, self.last_login, min(seen.last_request, seen.now))
        left = self.last_active + self.after_seconds - seen.now
        if seen.unknown:
            return Verdict(False, f"cannot tell whether the machine is idle: {'; '.join(seen.unknown)}")
        if reasons := (*seen.busy, *seen.logged_in):
            return Verdict(False, "; ".join(reasons), self.after_seconds)
        quiet, away = minutes(seen.now - seen.last_request), minutes(seen.now - self.last_login)
        return Verdict(left <= 0, f"no request for {quiet}, nobody logged in for {away}", max(left, 0.0))


def minutes(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"


class Looker:
    """Looks at the machine. Everything outside is passed in."""

    def __init__(self, activity_file: Path, run: Run, clock: Callable[[], float] = boottime, proc: Path = PROC,
                 sessions: Path = SESSIONS) -> None:  # fmt: skip
        self._activity_file = activity_file
        self._run = run
        self._clock = clock
        self._proc = proc
        self._sessions = sessions
        self._sessions_changed: int | None = None

    def look(self) -> Seen:
        """One look."""
        now = self._clock()
        busy: list[str] = []
        unknown: list[str] = []
        logged_in: list[str] = []
        last_request = now
        try:
            in_flight, last_request = read_activity(self._activity_file, now)
            busy += [f"{in_flight} request{'s'[: in_flight != 1]} in flight"] * (in_flight > 0)
        except UnknownError as fault:
            unknown.append(fault.message)
        for what, where in ((self._logins, logged_in), (self._starting, busy), (self._playbooks, busy)):
            try:
                where += what()
            except UnknownError as fault:
                unknown.append(fault.message)
        return Seen(now, last_request, tuple(busy), tuple(logged_in), self._logins_changed(), tuple(unknown))

    def _logins(self) -> list[str]:
        try:
            return self._people()
        except UnknownError:
            return self._people()  # a session may have ended between its two questions

    def _people(self) -> list[str]:
        """Sessions of people. One that was closed, and has left programs running, is none any more."""
        listed = self._run(["loginctl", "list-sessions", "--no-legend"]).splitlines()
        if not (names := [line.split()[0] for line in listed if line.strip()]):
            return []
        wanted = ("Id", "Name", "Class", "State")
        said = self._run(["loginctl", "show-session", *names, *(f"--property={each}" for each in wanted)])
        sessions = parse_units(said)
        if len(sessions) != len(names) or any(set(each) != set(wanted) for each in sessions):
            raise UnknownError(f"`loginctl show-session` does not say what the sessions {', '.join(names)} are")
        return [
            f"{each['Name']} is logged in (session {each['Id']})"
            for each in sessions
            if each["Class"].startswith("user") and each["State"] != "closing"
        ]

    def _logins_changed(self) -> bool:
        """Whether a session came or went since the last look, be it for a second."""
        try:
            changed = self._sessions.stat().st_mtime_ns
        except OSError:
            return False
        before, self._sessions_changed = self._sessions_changed, changed
        return before is not None and before != changed

    def _starting(self) -> list[str]:
        """Services that have not been up yet. One that fails again and again keeps no machine up."""
        said = self._run(["systemctl", "show", "infbox-*.service", "--property=Id,ActiveState,NRestarts"])
        return [
            f"{each['Id']} is starting"
            for each in parse_units(said)
            if each.get("ActiveState") == "activating" and each.get("NRestarts", "0") == "0"
        ]

    def _playbooks(self) -> list[str]:
        """Playbooks that run on the machine itself; others are logged in."""
        for path in self._proc.glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if any(word.rpartition(b"/")[2] == PLAYBOOK.encode() for word in words[:2]):
                return [f"a playbook runs (process {path.parent.name})"]
        return []


def read_activity(path: Path, now: float) -> tuple[int, float]:
    """The gateway's record: requests in flight, and when the last one was.

    Raises:
        UnknownError: there is none, it cannot be read, or it is not of now.
    """
    try:
        record = cast("dict[str, object]", json.loads(path.read_text()))
        in_flight, last, written = (record[name] for name in ("in_flight", "last_request", "written"))
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise UnknownError(f"the gateway's record {path} cannot be read ({type(fault).__name__}: {fault})") from None
    if not (isinstance(in_flight, int) and isinstance(last, float) and isinstance(written, float)):
        raise UnknownError(f"the gateway's record {path} is not what the gateway writes")
    if not last <= written <= now + 1:
        raise UnknownError(f"the gateway's record {path} is from the future")
    if now - written > STALE_SECONDS:
        raise UnknownError(f"the gateway's record {path} is {minutes(now - written)} old: does the gateway run?")
    return in_flight, last


def parse_units(said: str) -> list[dict[str, str]]:
    """What `systemctl show` and `loginctl show-session` say: blocks of NAME=value with empty lines between."""
    blocks = [block.splitlines() for block in said.split("\n\n") if block.strip()]
    return [{name: value for name, _, value in (line.partition("=") for line in block)} for block in blocks]


def run_program(command: Sequence[str]) -> str:
    """Run a program of systemd's.

    Raises:
        UnknownError: it is missing, failed or hangs.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise UnknownError(f"`{command[0]}` does not answer: {fault}") from None
    if done.returncode:
        raise UnknownError(f"`{' '.join(command[:2])}` failed: {done.stderr.strip()}")
    return done.stdout
