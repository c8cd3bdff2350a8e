"""`infbox ready`: wait until a service works. Units run it as ExecStartPost=, so it imports little and says little."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from infbox.engine_probe import Ask, RefusedError, ask_over, explanation, generate_over
from infbox.errors import NotReadyError
from infbox.gpus import machine_facts

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 1.0
REPORT_SECONDS = 15.0
UNITS = {"engine": "infbox-vllm", "gateway": "infbox-gateway"}


def register(commands: Any) -> None:
    """Add `ready` to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser("ready", help="wait until a service works")
    services = parser.add_subparsers(dest="service", metavar="SERVICE", required=True)
    engine = services.add_parser("engine", help="until it generates a token")
    gateway = services.add_parser("gateway", help="until GET /ready is 200")
    for each in (engine, gateway):
        each.add_argument("--socket", metavar="FILE", required=True, help="the unix socket that it listens on")
        each.add_argument("--pid", type=int, help="the service's process: its end ends the waiting")
    engine.add_argument("--model", metavar="NAME", help="the model to ask (default: the first it serves)")
    gpus = services.add_parser("gpus", help="until NVIDIA's driver shows every GPU that the machine has")
    for each in (engine, gateway, gpus):
        each.add_argument("--timeout", metavar="SECONDS", type=float, required=True, help="how long to wait in all")
    gateway.set_defaults(model=None)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Wait for what was asked for."""
    if options.service == "gpus":
        wait_until(ask_driver, "the driver", options.timeout, "nvidia-smi; journalctl --dmesg --grep=NVRM")
    else:
        _wait_for_service(options)


def _wait_for_service(options: argparse.Namespace) -> None:
    socket_path: str = options.socket
    model: str | None = options.model

    def check_alive() -> None:
        try:
            os.kill(options.pid, 0)
        except PermissionError:
            return  # it lives, as root: podman in front of an engine in a container
        except OSError:
            raise RefusedError(f"the process of {options.service} ended before it was ready") from None

    def ask_engine(seconds: float) -> None:
        generate_over(socket_path, model, seconds)

    def ask_gateway(seconds: float) -> None:
        answer = ask_over(socket_path, Ask("GET", "/ready"), seconds)
        if answer.status != 200:
            raise NotReadyError(f"/ready answered {answer.status} {explanation(answer)}")

    def attempt(seconds: float) -> None:
        if options.pid:
            check_alive()
        (ask_engine if options.service == "engine" else ask_gateway)(seconds)

    wait_until(
        attempt, f"{options.service} on {socket_path}", options.timeout, f"journalctl -u {UNITS[options.service]} -n 50"
    )


def ask_driver(_seconds: float) -> None:
    """Whether NVIDIA's driver shows every GPU that PCI does.

    Raises:
        NotReadyError: with what is missing.
    """
    facts = machine_facts()
    shown = sum("memory_mib" in gpu for gpu in facts["gpus"])
    if not facts["gpus"]:
        raise NotReadyError("this machine has no NVIDIA GPU")
    if facts["driver_fault"]:
        raise NotReadyError(facts["driver_fault"])
    if shown < len(facts["gpus"]):
        raise NotReadyError(f"NVIDIA's driver shows {shown} of {len(facts['gpus'])} GPUs")


def wait_until(
    attempt: Callable[[float], None],
    what: str,
    timeout: float,
    hint: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `attempt(seconds left)` until it raises no NotReadyError, for `timeout` seconds at most.

    Raises:
        NotReadyError: with the last error, when the time is up; at once when the service refused for good.
    """
    start = reported = clock()
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return attempt(max(start + timeout - clock(), 1.0))
        except RefusedError as fault:
            raise NotReadyError(fault.message, hint) from None
        except NotReadyError as fault:
            last = fault.message
        now = clock()
        if now + pause > start + timeout:
            raise NotReadyError(f"{what} is not ready after {now - start:.0f} s: {last}", hint)
        if now - reported >= REPORT_SECONDS:
            reported = now
            print(f"waiting for {what}: last error: {last}", flush=True)
        sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
