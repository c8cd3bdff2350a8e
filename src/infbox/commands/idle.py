"""`infbox idle`: what keeps the machine up, and the watch that stops it. The decisions are in `infbox.idle`."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, cast

from infbox.errors import InfboxError
from infbox.idle import Looker, UnknownError, Verdict, Watch, boottime, minutes, run_program

STATUS = Path("/run/infbox-idle-stop/status.json")
LONGEST_PAUSE_SECONDS = 30.0
VARIABLE = "IDLE_STOP_AFTER_MINUTES"


def register(commands: Any) -> None:
    """Add `idle` and its actions to the parser."""
    idle = commands.add_parser("idle", help="stop the machine when nobody uses it")
    actions = idle.add_subparsers(title="actions", metavar="ACTION", required=True)
    watch = actions.add_parser("watch", help="what the unit runs: power off after IDLE_STOP_AFTER_MINUTES")
    watch.set_defaults(run=_watch)
    status = actions.add_parser("status", help="what keeps the machine up, and when it would stop")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)


def _watch(options: argparse.Namespace) -> None:
    after = _after_seconds(os.environ.get(VARIABLE, ""))
    looker = Looker(Path(os.environ.get("IDLE_STOP_ACTIVITY_FILE", "")), run_program)
    watch = Watch(after, boottime())
    said = ""
    while True:
        verdict = watch.judge(looker.look())
        _write_status(verdict, after)
        if verdict.stop:
            print(f"{verdict.why}: powering off (idle_stop_after_minutes is {after / 60:g})", flush=True)
            try:
                # Not while packages are being installed: that holds a lock against it.
                run_program(["systemctl", "poweroff", "--check-inhibitors=yes"])
            except UnknownError as fault:
                verdict = Verdict(False, f"idle, and may not power off: {fault.message}")
            else:
                return
        unknown = verdict.why if verdict.stops_in is None else ""
        if unknown != said:
            print(unknown or "it can be told again whether the machine is idle", flush=True)
            said = unknown
        time.sleep(min(LONGEST_PAUSE_SECONDS, after / 10))


def _after_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        hint = "the unit sets it: systemctl cat infbox-idle-stop"
        raise InfboxError(f"{VARIABLE} is {text!r}, which is not a number of minutes above 0", hint)
    return value * 60


def _write_status(verdict: Verdict, after: float) -> None:
    record = {"why": verdict.why, "stops_in": verdict.stops_in, "after_seconds": after, "written": boottime()}
    try:
        STATUS.with_suffix(".new").write_text(json.dumps(record))
        STATUS.with_suffix(".new").rename(STATUS)
    except OSError as fault:
        print(f"{STATUS} cannot be written: {fault}", flush=True)


def _status(options: argparse.Namespace) -> None:
    record: dict[str, Any]
    try:
        record = cast("dict[str, Any]", json.loads(STATUS.read_text()))
    except FileNotFoundError:
        record = {"why": "idle stop is off: idle_stop_after_minutes is 0, or infbox-idle-stop does not run"}
    except (OSError, ValueError) as fault:
        raise InfboxError(f"{STATUS} cannot be read: {fault}", "systemctl status infbox-idle-stop") from None
    if options.json:
        print(json.dumps(record))
        return
    print(record["why"])
    if record.get("stops_in") is not None:
        left = max(record["stops_in"] - (boottime() - record["written"]), 0.0)
        after = record["after_seconds"] / 60
        print(f"stops in {minutes(left)} if nothing else happens (idle_stop_after_minutes is {after:g})")
