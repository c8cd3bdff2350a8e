"""What the watch tells: its state in JSON for `infbox gpu status`, and metrics for Prometheus, both in /run."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from infbox.errors import InfboxError
from infbox.gpu_health.sources import Driver
from infbox.gpu_health.watch import Watch, sentence
from infbox.idle import minutes

FOLDER = Path("/run/infbox-gpu-health")
STATE, METRICS, CLEARED = "state.json", "gpu.prom", "cleared"
# The watch may wait that long for nvidia-smi and the engine before it writes again.
LATE_SECONDS = 300.0
_HINT = "systemctl status infbox-gpu-health"


def write(folder: Path, watch: Watch, driver: Driver, due: float) -> None:
    """Both files, each whole or not at all. `due`: when they will be written again at the latest.

    Raises:
        InfboxError: they cannot be written.
    """
    state = {
        "gpus": driver.count,
        "known": sorted(driver.known),
        "alarms": [asdict(alarm) for alarm in watch.alarms],
        "xids": [{"address": address, "number": number, "count": count}
                 for (address, number), count in sorted(watch.counts.items())],
        "restarts": watch.restarts,
        "restarts_total": watch.restarts_total,
        "due": due,
    }  # fmt: skip
    try:
        for name, text in ((STATE, json.dumps(state)), (METRICS, prometheus(state))):
            (folder / f".{name}").write_text(text)
            (folder / f".{name}").rename(folder / name)
    except OSError as fault:
        raise InfboxError(f"{folder} cannot be written: {fault}", _HINT) from None


def read(folder: Path = FOLDER) -> dict[str, Any] | None:
    """The state, or None where no watch has run since the boot.

    Raises:
        InfboxError: it cannot be read.
    """
    try:
        state: object = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        raise InfboxError(f"{folder / STATE} cannot be read: {fault}", _HINT) from None
    if not isinstance(state, dict) or "alarms" not in state or "due" not in state:
        raise InfboxError(f"{folder / STATE} is not what the watch writes", _HINT)
    return cast("dict[str, Any]", state)


def cleared(folder: Path = FOLDER) -> float:
    """When a person last said that all alarms were seen to; 0 if never."""
    with contextlib.suppress(OSError, ValueError):
        return float((folder / CLEARED).read_text())
    return 0.0


def describe(state: dict[str, Any], now: float) -> list[str]:
    """The state for people: a line for each alarm and its hint, or one that says that there is none."""
    lines: list[str] = []
    if now > state["due"] + LATE_SECONDS:
        lines.append(f"not watched over for {minutes(now - state['due'])}: {_HINT}")
    elif not state["alarms"]:
        lines.append(f"{state['gpus']} GPU{'s'[: state['gpus'] != 1]}, no alarm")
    for alarm in state["alarms"]:
        lines += [f"ALARM: {sentence(alarm['address'], alarm['what'])}", f"to do: {alarm['hint']}"]
    return lines


def prometheus(state: dict[str, Any]) -> str:
    """The state in Prometheus' text format, version 0.0.4."""
    counts = ((f'{{gpu="{each["address"]}",xid="{each["number"]}"}}', each["count"]) for each in state["xids"])
    lines = [
        *_metric("gpus", "gauge", "GPUs on PCI.", [("", state["gpus"])]),
        *_metric("alarms", "gauge", "What a person has to see to.", [("", len(state["alarms"]))]),
        *_metric("xid_errors_total", "counter", "Errors in the kernel's log since the boot.", counts),
        *_metric("engine_restarts_total", "counter", "Restarts after errors.", [("", state["restarts_total"])]),
    ]
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: Iterable[tuple[str, int]]) -> list[str]:
    name = f"infbox_gpu_{name}"
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{labels} {value}" for labels, value in values)]
