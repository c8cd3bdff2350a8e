"""`infbox gpu`: whether the GPUs are healthy, and the watch over them. The decisions are in `infbox.gpu_health`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from infbox.errors import InfboxError
from infbox.gpu_health import state
from infbox.gpu_health.sources import PATIENCE, Driver, KernelLog, VllmEngine, log_command
from infbox.gpu_health.watch import Watch, sentence
from infbox.idle import boottime

TURN_SECONDS = 1.0
# With this status the unit has root restart the engine, before the watch goes on.
RESTART_ENGINE = 75
_UNIT = "the unit sets it: systemctl cat infbox-gpu-health"


def register(commands: Any) -> None:
    """Add `gpu` and its actions to the parser."""
    gpu = commands.add_parser("gpu", help="say whether the GPUs are healthy, and watch over them")
    actions = gpu.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="what the watch has seen since the boot, and what is to be done")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)
    check = actions.add_parser("check", help="ask the driver now; status 1 if a GPU is faulty")
    check.set_defaults(run=_check)
    clear = actions.add_parser("clear", help="say that all alarms until now were seen to, as after a reset")
    clear.set_defaults(run=_clear)
    watch = actions.add_parser("watch", help="what the unit runs")
    watch.set_defaults(run=_watch)


def _status(options: argparse.Namespace) -> int:
    found = state.read()
    if found is None:
        raise InfboxError("no watch over GPUs has run since the boot", "presets with `hardware_gpus` have one")
    if options.json:
        print(json.dumps(found))
        return 0
    print("\n".join(state.describe(found, boottime())))
    for each in found["xids"]:
        print(f"Xid {each['number']} of the GPU at {each['address']}: {each['count']:,} since the boot")
    if found["restarts_total"]:
        print(f"the engine was restarted after such errors: {found['restarts_total']} times")
    return 1 if found["alarms"] else 0


def _check(_: argparse.Namespace) -> None:
    """What the driver says now, and what the watch saw in the log."""
    driver = Driver()
    faults, _silent = driver.faults()
    watched = (state.read() or {"alarms": []})["alarms"]
    faults += [alarm for alarm in watched if alarm["kind"].startswith("xid") or alarm["kind"] == "restarts"]
    if faults:
        hints = "; ".join(dict.fromkeys(fault["hint"] for fault in faults))
        raise InfboxError("; ".join(sentence(fault["address"], fault["what"]) for fault in faults), hints)
    print(f"{driver.count} GPU{'s'[: driver.count != 1]}, healthy")


def _clear(_: argparse.Namespace) -> None:
    try:
        (state.FOLDER / state.CLEARED).write_text(f"{boottime()}\n")
    except OSError as fault:
        hint = "root may: sudo infbox gpu clear; and infbox-gpu-health must have run"
        raise InfboxError(f"the watch cannot be told: {fault}", hint) from None
    print("what the driver still says is wrong stays an alarm: infbox gpu status")


def _watch(_: argparse.Namespace) -> int:
    folder = Path(os.environ.get("RUNTIME_DIRECTORY", state.FOLDER))
    poll = _number("GPU_HEALTH_POLL_SECONDS", 5)
    say = _Say()
    before = _before(folder, say)
    watch = Watch(
        restarts_per_hour=_number("GPU_HEALTH_RESTARTS_PER_HOUR", 0),
        say=say,
        cleared=state.cleared(folder),
        restarts=list(before.get("restarts", [])),
        restarts_total=int(before.get("restarts_total", 0)),
    )
    engine = VllmEngine(os.environ.get("GPU_HEALTH_ENGINE_SOCKET", ""))
    driver = Driver(before.get("known", []))
    log = KernelLog(log_command(os.environ.get("GPU_HEALTH_JOURNAL", "")))
    due = 0.0
    while True:
        seen = log.take(TURN_SECONDS)
        for xid in seen:
            watch.see(xid)
        cleared = watch.clear(state.cleared(folder))
        if polled := boottime() >= due:
            faults, silent = driver.faults()
            watch.see_health(faults, boottime(), silent=silent)
            due = boottime() + poll * (PATIENCE if silent else 1)
        restart = watch.decide(boottime(), engine)
        if seen or cleared or polled or restart:
            try:
                state.write(folder, watch, driver, due)
            except InfboxError as fault:
                say.once(fault.message)
        if restart:
            log.close()
            return RESTART_ENGINE


class _Say:
    """Prints for the journal."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        print(text, flush=True)

    def once(self, text: str) -> None:
        """What would be said again and again."""
        if text != self._last:
            self(text)
        self._last = text


def _before(folder: Path, say: _Say) -> dict[str, Any]:
    """What a watch before this one has left, since the boot."""
    try:
        return state.read(folder) or {}
    except InfboxError as fault:
        say(f"{fault.message}: beginning anew")
        return {}


def _number(name: str, least: int) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal() or int(text) < least:
        raise InfboxError(f"{name} is {text!r}, which is not a whole number from {least} up", _UNIT)
    return int(text)
