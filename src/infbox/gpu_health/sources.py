"""What the watch rests on: the kernel's log, the driver, and the engine. Each runs as a user without rights."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, cast

from infbox.engine_probe import RefusedError, generate_over
from infbox.errors import InfboxError, NotReadyError
from infbox.gpu_health.xid import TO_DO, Action, Xid, parse
from infbox.gpus import gpu_faults, machine_facts
from infbox.idle import UnknownError, boottime, parse_units, run_program

UNIT = "infbox-vllm.service"
_NOT_UP = (FileNotFoundError, ConnectionRefusedError, PermissionError)
_SHOWN = ("ActiveState", "ExecMainStartTimestampMonotonic")
ANSWER_SECONDS = 60.0
LONGEST_LINE = 64 * 2**10
# Errors that were read and not seen yet; the log waits for those that come then.
MOST_WAITING = 10_000
# The driver is asked so much less often while it does not answer: each question may leave a program in the kernel.
PATIENCE = 10
# Lines that may tell of an error, before they are parsed: text, or bytes that are not UTF-8.
_MARKS = (b"NVRM: Xid", b'"MESSAGE":[', b'"MESSAGE" : [')


def ahead_of_monotonic() -> float:
    """What CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, in which the journal and systemd tell times."""
    return boottime() - time.monotonic()


def log_command(which: str = "") -> list[str]:
    """The kernel's log of this boot, and what comes, each line a JSON object. `which`: other arguments in place of
    those that say whose log. Not every journalctl is built with --grep, so errors are picked out here."""
    fields = "--output-fields=MESSAGE,__MONOTONIC_TIMESTAMP"
    entries = which.split() or ["--boot", "_TRANSPORT=kernel"]
    return ["journalctl", "--follow", "--no-tail", "--output=json", fields, *entries]


class KernelLog:
    """Follows the log from this boot's beginning, in a thread."""

    def __init__(self, command: Sequence[str], ahead: Callable[[], float] = ahead_of_monotonic) -> None:
        self._waiting: queue.Queue[Xid | None] = queue.Queue(MOST_WAITING)
        self._ahead = ahead
        try:
            self._program = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603
        except OSError as fault:
            raise InfboxError(f"the kernel's log cannot be read: {fault}", "it needs systemd's journalctl") from None
        threading.Thread(target=self._read, args=(self._program.stdout,), daemon=True).start()

    def take(self, seconds: float) -> list[Xid]:
        """The errors since the last call; waits for the first for so long.

        Raises:
            InfboxError: the log has ended, which it does not by itself.
        """
        found: list[Xid] = []
        try:
            while len(found) < MOST_WAITING:
                xid = self._waiting.get(timeout=seconds) if not found else self._waiting.get_nowait()
                if xid is None and found:
                    self._waiting.put(None)  # said at the next call
                    break
                if xid is None:
                    status = self._program.wait()
                    raise InfboxError(f"journalctl ended with status {status}", "its own words stand above")
                found.append(xid)
        except queue.Empty:
            pass
        return found

    def close(self) -> None:
        """End journalctl."""
        self._program.kill()
        self._program.wait()

    def _read(self, log: IO[bytes]) -> None:
        while line := log.readline(LONGEST_LINE):
            if any(mark in line for mark in _MARKS) and (xid := self._parse(line)):
                self._waiting.put(xid)
        self._waiting.put(None)

    def _parse(self, line: bytes) -> Xid | None:
        try:
            entry = cast("dict[str, Any]", json.loads(line))
            message, at = entry["MESSAGE"], float(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
            if isinstance(message, list):  # bytes that are not UTF-8
                message = bytes(cast("list[int]", message)).decode(errors="replace")
            return parse(message, at + self._ahead()) if isinstance(message, str) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class Driver:
    """Asks the driver how the GPUs are. `known`: the addresses of those that were ever there; `count`: that are now."""

    def __init__(self, known: Iterable[str] = (), facts: Callable[[], dict[str, Any]] = machine_facts) -> None:
        self._facts = facts
        self.known = set(known)
        self.count = 0

    def faults(self) -> tuple[list[dict[str, str]], bool]:
        """(what is wrong, as `gpus.gpu_faults` has it; whether the driver said nothing of GPUs)."""
        facts = self._facts()
        there = {gpu["address"] for gpu in facts["gpus"]}
        self.known |= there
        self.count = len(there)
        found = gpu_faults(facts)
        found += [_fault("away", "it was on PCI, and is not any more", TO_DO[Action.REBOOT], address)
                  for address in sorted(self.known - there)]  # fmt: skip
        if facts["driver_fault"]:
            hint = "`journalctl --dmesg --grep NVRM` says why; reboot the machine"
            found.append(_fault("driver", facts["driver_fault"], hint))
        elif not self.known:
            found.append(_fault("none", "this machine has no NVIDIA GPU on PCI", "look at its slots and cables"))
        elif there and not any(gpu["driver"] == "nvidia" for gpu in facts["gpus"]):
            found.append(_fault("driver", "no GPU of this machine has NVIDIA's driver", "run the playbook again"))
        return found, bool(facts["driver_fault"])


def _fault(kind: str, what: str, hint: str, address: str = "") -> dict[str, str]:
    return {"address": address, "kind": kind, "what": what, "hint": hint}


class VllmEngine:
    """The engine of unit infbox-vllm, by what systemd says of it and by its socket."""

    def __init__(self, socket: str, run: Callable[[Sequence[str]], str] = run_program,
                 ahead: Callable[[], float] = ahead_of_monotonic) -> None:  # fmt: skip
        self._socket, self._run, self._ahead = socket, run, ahead

    def since(self) -> float | None:
        """When its first process began, in seconds of CLOCK_BOOTTIME; None if it does not run, 0 if systemd does not
        tell, so that it is asked itself."""
        try:
            (told,) = parse_units(self._run(["systemctl", "show", UNIT, f"--property={','.join(_SHOWN)}"]))
            state, began = (told[name] for name in _SHOWN)
            return None if state in ("inactive", "failed") else int(began) / 1e6 + self._ahead()
        except (UnknownError, ValueError, KeyError):
            return 0.0

    def answers(self) -> bool | None:
        """Whether it produces a token; None if nobody listens yet, or not to this user."""
        try:
            generate_over(self._socket, None, ANSWER_SECONDS)
        except RefusedError:
            return True
        except NotReadyError as fault:
            return None if isinstance(fault.__cause__, _NOT_UP) else False
        return True
