#!/usr/bin/env python3
"""`make test`: everything that has to hold, one stage after the other; the first that fails ends the run.

    tests/run.py              all stages
    tests/run.py lint unit    some of them

The box stages need root and Debian or Ubuntu, as `make demo` does; elsewhere they are skipped, said loudly, and the run
counts them as skipped. Only the standard library is needed: the first stage makes the rest.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
SCRIPTS = ["bootstrap.sh", "inventories/stack.sh", "hosts/setup.sh", "hosts/layer/host-init", ".ci/run"]


class StageError(Exception):
    """A command of a stage failed."""


def run(*command: str, **environment: str) -> None:
    """Run a program of .venv, or of the machine, in the checkout."""
    program = BIN / command[0]
    words = [str(program) if program.exists() else command[0], *command[1:]]
    path = f"{BIN}:{ROOT}/.build/uv/bin:{os.environ['PATH']}"
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PATH": path, **environment}, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise StageError(f"`{' '.join(command)}` ended with status {done.returncode}")


def lint() -> None:
    """Linters and the type checker."""
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")
    run("pyright")
    run("yamllint", "--strict", ".")
    # It looks at syntax with the inventory that a person has selected; that there is none must not matter.
    run("ansible-lint", "--strict", ANSIBLE_INVENTORY="inventories/presets.yml")
    run("shellcheck", *SCRIPTS)
    run("infbox", "preset", "check")


def unit() -> None:
    """What needs no host."""
    run("pytest", "tests", "--ignore=tests/box", "--ignore=tests/faults", "--ignore=tests/bootstrap")


def faults() -> None:
    """What goes wrong on people's machines, on a host of its own."""
    run("pytest", "tests/faults")


def molecule() -> None:
    """Roles on bare hosts: a whole box, and all but the engine on the next release."""
    run("molecule", "test", "--all")


def demo() -> None:
    """`make demo` from nothing, the box from outside, `make demo` again, and nothing left behind."""
    run("make", "demo-down")
    run("make", "demo")
    run("pytest", "tests/box", "--box", ".demo/box.json")
    run("make", "demo")
    run("make", "demo-down")


def bootstrap() -> None:
    """A server that makes itself a box."""
    run("pytest", "tests/bootstrap")


@dataclass(frozen=True)
class Stage:
    """A named part of the run; `on_hosts`: it makes systemd hosts."""

    work: Callable[[], None]
    on_hosts: bool = False


STAGES = {
    "lint": Stage(lint),
    "unit": Stage(unit),
    "faults": Stage(faults, on_hosts=True),
    "molecule": Stage(molecule, on_hosts=True),
    "demo": Stage(demo, on_hosts=True),
    "bootstrap": Stage(bootstrap, on_hosts=True),
}


def why_no_hosts() -> str:
    """Why this machine cannot make hosts; empty if it can."""
    if os.geteuid() != 0:
        return "making systemd hosts needs root"
    if not Path("/usr/bin/apt-get").exists():
        return "systemd hosts are made from Debian's or Ubuntu's packages, and there is no apt-get"
    return ""


def main(names: list[str]) -> int:
    """Run the stages, print what each took."""
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        print(f"error: no stage {unknown[0]}\n\nhint: the stages are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    lines: list[str] = []
    passed = failed = skipped = 0
    try:
        run("hosts/setup.sh", "requirements/dev.txt")
        for name in names or STAGES:
            stage = STAGES[name]
            reason = why_no_hosts() if stage.on_hosts else ""
            if reason:
                skipped += 1
                lines.append(f"{name:<12} SKIPPED: {reason}")
                continue
            print(f"\n=== {name}: {stage.work.__doc__}", flush=True)
            start = time.monotonic()
            try:
                stage.work()
                passed += 1
                verdict = "passed"
            except StageError as fault:
                failed += 1
                verdict = f"FAILED: {fault}"
            lines.append(f"{name:<12} {time.monotonic() - start:7.0f} s  {verdict}")
            if failed:
                break
    except StageError as fault:
        failed += 1
        lines.append(f"{'setup':<12} FAILED: {fault}")
    print("\n" + "\n".join(lines))
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
