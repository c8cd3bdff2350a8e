"""The command `infbox`: finds the subcommand, runs it, prints faults for people.

A subcommand is a module of `infbox.commands`; only the one that was asked for is imported, so that
`infbox preset show` needs none of the gateway's libraries.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from infbox import __version__
from infbox.errors import InfboxError

COMMANDS = {
    "preset": "show, list and check presets",
    "plan": "say whether a preset's model fits a machine, and what would",
    "machine": "say what this machine has, and which presets it can serve",
    "model": "fetch and verify models",
    "image": "fetch the engine's container image, and run services in it",
    "key": "make, list and remove API keys",
    "index": "say what of a workspace models know, and why not the rest",
    "kv": "say what of the engines' KV cache is kept in RAM and on disk",
    "gpu": "say whether the GPUs are healthy, and watch over them",
    "box": "start, stop and look at this box's services",
    "ready": "wait until a service works",
    "storage": "format, mount and grow the box's disks",
    "idle": "stop the machine when nobody uses it",
    "smoke": "ask the box one real question over TLS",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit status: 0 done, 1 a fault was printed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="infbox", description="A private, code-aware LLM box.")
    parser.add_argument("--version", action="version", version=f"infbox {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == asked:
            importlib.import_module(f"infbox.commands.{name}").register(commands)
        else:
            commands.add_parser(name, help=summary)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except InfboxError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
