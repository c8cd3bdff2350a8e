"""`infbox box`: the services of the box that this machine is; `make start`, `stop`, `status` and `logs` run it."""

import argparse
import os
import subprocess
import sys
import time
from typing import Any

from infbox.engine_probe import Ask, ask_over, explanation
from infbox.errors import InfboxError, NotReadyError
from infbox.gpu_health import state as gpu_state
from infbox.idle import boottime

GATEWAY_SOCKET = "/run/infbox-gateway/gateway.sock"
ANSWER_SECONDS = 10.0
# What protects or mounts something is no service that is stopped.
STAYING = ("infbox-firewall.service", "infbox-storage-scratch.service")
SHOWN = ("Id", "ActiveState", "SubState", "NRestarts", "MemoryCurrent", "ActiveEnterTimestampMonotonic")


def register(commands: Any) -> None:
    """Add `box` and its actions."""
    box = commands.add_parser("box", help="start, stop and look at this box's services")
    actions = box.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, summary, run in (
        ("start", "start every service, and wait until the engine produces a token", _start),
        ("stop", "stop every service but the firewall; they start again at the next boot", _stop),
        ("status", "say of each service whether it runs, and whether the box answers", _status),
        ("logs", "follow what the services say", _logs),
    ):
        actions.add_parser(name, help=summary).set_defaults(run=run)


def _start(options: argparse.Namespace) -> int:
    units, begun = _units("start"), time.monotonic()
    print(f"starting {_names(units)}; the engine takes longest", flush=True)
    _systemctl("reset-failed", *units)
    if _systemctl("start", *units):
        raise InfboxError("a service did not start", "`make status` says which, `make logs` what it says")
    print(f"started in {time.monotonic() - begun:.0f} s")
    return _status(options)


def _stop(_: argparse.Namespace) -> None:
    units = _units("stop")
    print(f"stopping {_names(units)}; answers that are under way are finished", flush=True)
    if _systemctl("stop", *units):
        raise InfboxError("a service did not stop", "`make status` says which, `make logs` what it says")


def _status(_: argparse.Namespace) -> int:
    shown = _ask("show", f"--property={','.join(SHOWN)}", *_units(), *STAYING)
    for block in shown.strip().split("\n\n"):
        unit = {name: value for name, _, value in (line.partition("=") for line in block.splitlines())}
        if unit.get("ActiveState") and unit.get("SubState") != "dead":
            print(_line(unit))
        elif unit.get("Id") not in STAYING:
            print(f"{_names([unit['Id']]):<16}stopped")
    if gpus := gpu_state.read():
        for line in gpu_state.describe(gpus, boottime()):
            print(f"{'GPUs':<16}{line}")
    try:
        answer = ask_over(GATEWAY_SOCKET, Ask("GET", "/ready"), ANSWER_SECONDS)
        why = "" if answer.status == 200 else explanation(answer)
    except NotReadyError as fault:
        why = fault.message
    print(f"{'answers':<16}{'yes' if not why else f'no: {why}'}")
    return 1 if why else 0


def _line(unit: dict[str, str]) -> str:
    memory, restarts = unit.get("MemoryCurrent", ""), unit.get("NRestarts", "0")
    words = [unit["SubState"] if unit["ActiveState"] == "active" else f"{unit['ActiveState']} ({unit['SubState']})"]
    if unit["ActiveState"] == "active":
        since = time.monotonic() - int(unit.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        words.append(f"for {since / 3600:.1f} h" if since >= 3600 else f"for {since:.0f} s")
    if memory.isdigit() and unit["SubState"] == "running":
        words.append(f"{int(memory) / 2**20:,.0f} MiB")
    if restarts not in ("", "0"):
        words.append(f"restarted {restarts} times by itself")
    return f"{_names([unit['Id']]):<16}{', '.join(words)}"


def _logs(_: argparse.Namespace) -> None:
    sys.stdout.flush()
    os.execvp("journalctl", ["journalctl", "--unit=infbox-*", "--follow", "--lines=100", "--no-hostname"])  # noqa: S606, S607


def _units(action: str = "") -> list[str]:
    """The box's services that start at boot.

    Raises:
        InfboxError: there are none, or this user may not do that to them.
    """
    listed = _ask("list-unit-files", "--no-legend", "--plain", "--state=enabled", "infbox-*.service")
    units = [line.split()[0] for line in listed.splitlines() if line.strip()]
    if not units:
        raise InfboxError("this machine is no box: it has no services of infbox", "sudo ./bootstrap.sh makes it one")
    if action and os.geteuid():
        raise InfboxError(f"only root may {action} services", f"sudo make {action}")
    return [unit for unit in units if unit not in STAYING]


def _names(units: list[str]) -> str:
    return ", ".join(unit.removeprefix("infbox-").removesuffix(".service") for unit in units)


def _systemctl(*words: str) -> int:
    return subprocess.run(["systemctl", *words], check=False).returncode  # noqa: S603, S607


def _ask(*words: str) -> str:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603, S607
    except (FileNotFoundError, subprocess.TimeoutExpired) as fault:
        hint = "on a machine that systemd started, ./bootstrap.sh makes a box"
        raise InfboxError(f"systemctl does not answer: {fault}", hint) from None
    if done.returncode:
        said = done.stderr.strip() or "this machine was not started by systemd"
        raise InfboxError(f"systemctl: {said}", "on a machine that systemd started, ./bootstrap.sh makes a box")
    return done.stdout
