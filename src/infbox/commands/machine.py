"""`infbox machine`: what this machine has, and which presets it can serve. For people, and for bootstrap.sh."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from infbox.gpus import machine_facts
from infbox.hardware import describe, fitting
from infbox.preset import find_root

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def register(commands: "Commands") -> None:
    """Add `infbox machine`."""
    parser = commands.add_parser("machine", help="say what this machine has, and which presets it can serve")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--propose", action="store_true", help="print the one preset that is proposed, alone")
    parser.add_argument("--root", type=Path, help="the checkout of infbox (default: the one you are in)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the machine and its presets."""
    facts = machine_facts()
    fits = fitting(options.root or find_root(Path.cwd()), facts)
    proposed = next((fit.preset for fit in fits if not fit.context), "cpu")
    if options.propose:
        print(proposed)
    elif options.json:
        presets = {fit.preset: fit.context for fit in fits}
        print(json.dumps({**facts, "presets": presets, "proposed": proposed}, indent=2))
    else:
        print(f"{describe(facts)}\npresets that fit: {', '.join(str(fit) for fit in fits) or '`cpu`'}")
        if facts["driver_fault"]:
            print(f"the driver: {facts['driver_fault']}")
    return 0
