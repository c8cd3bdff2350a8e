"""What is to be done about errors of GPUs: decisions alone, with a clock that is passed in. Times are CLOCK_BOOTTIME's.

An error that broke programs, not the GPU, wants the engine started anew, unless it was meanwhile, or still answers:
another program may have caused it, and an engine takes minutes to load. Everything else wants a person: it is an
alarm, until the machine is rebooted or `infbox gpu clear` says that it was seen to.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from infbox.gpu_health.xid import RECOVERY_CHANGED, TO_DO, Action, Xid

HOUR = 3600.0
# After an error, until the engine is asked: an engine that breaks of it has ended by itself then, and is starting.
GRACE_SECONDS = 15.0
# Kinds of errors that are counted apart: more are some other fault, and must not take all memory.
MOST_KINDS = 1000
# An engine that does not answer is asked so many times, since it may be at work on long prompts, and how far apart.
ASKS = 2
ASK_AGAIN_SECONDS = 30.0


class Engine(Protocol):
    """The engine, as far as it is looked at."""

    def since(self) -> float | None:
        """When its first process began; None if it does not run."""
        ...

    def answers(self) -> bool | None:
        """Whether it produces a token; None if it is not up yet."""
        ...


@dataclass(frozen=True)
class Alarm:
    """What a person has to see to: its kind for programs, what is wrong in one sentence, what to do, and since when."""

    address: str
    kind: str
    what: str
    hint: str
    since: float

    def __str__(self) -> str:
        return sentence(self.address, self.what)


def sentence(address: str, what: str) -> str:
    """What is wrong, and with which GPU."""
    return what if address in what else f"the GPU at {address}: {what}"


Alarms = dict[tuple[str, str], Alarm]


@dataclass
class Watch:
    """Remembers from error to error. `say` is told what the journal is to hold; `cleared`: when a person last said
    that all was seen to; `restarts`: when the engine was started anew, by this watch or by one before it."""

    restarts_per_hour: int
    say: Callable[[str], None]
    cleared: float = 0.0
    restarts: list[float] = field(default_factory=list[float])
    restarts_total: int = 0
    counts: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    _alarms: Alarms = field(default_factory=Alarms)
    _polled: Alarms = field(default_factory=Alarms)
    _pending: Xid | None = None
    _ask_at: float = 0.0
    _asked: int = 0
    _told: float = -HOUR

    def see(self, xid: Xid) -> None:
        """An error of the log."""
        counted = (xid.address, xid.number)
        if counted not in self.counts and len(self.counts) >= MOST_KINDS:
            return
        self.counts[counted] += 1
        told = f"Xid {xid.number} of the GPU at {xid.address}: {xid.meaning}"
        if xid.action in TO_DO:
            if xid.at > self.cleared:
                kind = f"xid {xid.number} {xid.action}"
                self._raise(self._alarms, Alarm(xid.address, kind, told, TO_DO[xid.action], xid.at))
            return
        if self.counts[counted] == 1:
            self.say(f"{told}{'; not known here: nothing is done' if xid.action is Action.UNKNOWN else ''}")
        if xid.action is Action.ENGINE and xid.at > self.cleared:
            self._ask_at = self._ask_at if self._pending else xid.at + GRACE_SECONDS
            self._pending = xid
        elif xid.number == RECOVERY_CHANGED and xid.action is Action.NONE:
            self._forget(lambda alarm: alarm.address == xid.address)

    def see_health(self, faults: Iterable[Mapping[str, str]], now: float, *, silent: bool = False) -> None:
        """What the driver says now, as `gpus.gpu_faults` has it. What was wrong before and is not any more is no alarm;
        `silent`: the driver says nothing of GPUs, so what was wrong may be so still."""
        found = {(each["address"], each["kind"]): Alarm(**each, since=now) for each in faults}
        if not silent:
            for key in sorted(self._polled.keys() - found.keys()):
                self.say(f"over: {self._polled.pop(key)}")
        for alarm in found.values():
            self._raise(self._polled, alarm)

    def clear(self, now: float) -> bool:
        """A person has seen to what was until now; whether that is news."""
        if now <= self.cleared:
            return False
        self.cleared = now
        self._forget(lambda alarm: alarm.since <= now)
        if self._pending and self._pending.at <= now:
            self._settle()
        return True

    def decide(self, now: float, engine: Engine) -> bool:
        """Whether the engine is to be started anew now."""
        error = self._pending
        if error is None or now < self._ask_at:
            return False
        since = engine.since()
        if since is None or since > error.at:
            self._settle()
            return False
        if (answer := engine.answers()) is not False:
            if now - self._told >= HOUR:
                self._told = now
                how = "answers" if answer else "is not up yet"
                self.say(f"the engine {how} after Xid {error.number}: left alone")
            self._settle()
            return False
        self._asked += 1
        if self._asked < ASKS:
            self._ask_at = now + ASK_AGAIN_SECONDS
            return False
        self._settle()
        return self._may_restart(error, now)

    def _may_restart(self, error: Xid, now: float) -> bool:
        self.restarts = [at for at in self.restarts if at > now - HOUR]
        silent = f"the engine does not answer after Xid {error.number}"
        if len(self.restarts) >= self.restarts_per_hour:
            what = f"{silent}, and was restarted {len(self.restarts)} times within an hour: no more"
            hint = "`journalctl -u infbox-vllm` and `infbox gpu status` say why; `systemctl restart infbox-vllm`"
            self._raise(self._alarms, Alarm(error.address, "restarts", what, hint, now))
            return False
        self.restarts.append(now)
        self.restarts_total += 1
        self.say(f"{silent} of the GPU at {error.address}: restarting it")
        return True

    @property
    def alarms(self) -> list[Alarm]:
        """What a person has to see to, the oldest first."""
        return sorted([*self._alarms.values(), *self._polled.values()], key=lambda alarm: alarm.since)

    def _settle(self) -> None:
        self._pending, self._ask_at, self._asked = None, 0.0, 0

    def _raise(self, alarms: Alarms, alarm: Alarm) -> None:
        key = (alarm.address, alarm.kind)
        if key not in alarms:
            self.say(f"ALARM: {alarm} (to do: {alarm.hint})")
        alarms[key] = replace(alarm, since=alarms[key].since) if key in alarms else alarm

    def _forget(self, over: Callable[[Alarm], bool]) -> None:
        self._alarms = {key: alarm for key, alarm in self._alarms.items() if not over(alarm)}
