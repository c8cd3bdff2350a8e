#!/usr/bin/env python3
"""`make test`: everything that has to hold.

    tests/run.py              all stages, in two lanes side by side: with engines, and without
    tests/run.py lint unit    some of them, one after the other

One engine runs at a time, which leaves room for the other lane on two cores. What the other lane says is printed when
it is done. A lane stops at its first failure. Box stages need root and Debian or Ubuntu, as `make demo` does; elsewhere
they are skipped, said loudly and counted. Only the standard library is needed: the set-up makes the rest.
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
OLD_PYTHON = "tests/bootstrap/test_old_python.py"
OTHER_LANE_LOG = ROOT / ".build" / "other-lane.log"
INVENTORIES = ("-i", "inventories/presets.yml", "-i", ".demo/inventory.yml")
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


def setup() -> None:
    """.venv with everything in it."""
    run("hosts/setup.sh", "requirements/dev.txt")


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
    apart = ("aws", "box", "faults", "bootstrap", "storage")
    run("pytest", "tests", *(f"--ignore=tests/{name}" for name in apart))


def aws() -> None:
    """The Pulumi program and `make up` against a simulated AWS."""
    run("pytest", "tests/aws")


def faults() -> None:
    """What goes wrong on people's machines, on a host of its own."""
    run("pytest", "tests/faults", "--durations=12")


def storage() -> None:
    """Real block devices: formatted, grown, refused, lost at a stop."""
    run("pytest", "tests/storage")


def light() -> None:
    """Roles on a bare host of the next release: all but the engine."""
    run("molecule", "test", "--scenario-name", "trixie")


def gpu() -> None:
    """NVIDIA's driver, on a host with stand-ins for GPUs and for NVIDIA's packages."""
    run("molecule", "test", "--scenario-name", "gpu")


def box() -> None:
    """Roles on a bare host: a whole box, its engine in a container; scenario `default` is what `make demo` makes."""
    run("molecule", "test", "--scenario-name", "container")


def demo() -> None:
    """`make demo` from nothing, the box from outside; with a daemon for KV; nothing left behind."""
    run("make", "demo-down")
    run("make", "demo")
    run("pytest", "tests/box", "--box", ".demo/box.json", "--durations=12")
    kept = ("ansible-playbook", *INVENTORIES, "site.yml", "--extra-vars", "@tests/box/kv.yml")
    run(*kept)
    run("pytest", "tests/box", "--box", ".demo/box.json", "-m", "kv", "--durations=8")
    run("make", "demo-down")


def bootstrap() -> None:
    """A server that makes itself a box."""
    run("pytest", "tests/bootstrap", f"--ignore={OLD_PYTHON}")


def ubuntu() -> None:
    """A server whose Python is too old."""
    run("pytest", OLD_PYTHON)


@dataclass(frozen=True)
class Stage:
    """A named part of the run. `hosts`: it makes systemd hosts, `engine`, `loop_devices` and `aws`: with those."""

    work: Callable[[], None]
    hosts: bool = False
    engine: bool = False
    loop_devices: bool = False
    aws: bool = False


STAGES = {
    "setup": Stage(setup),
    "lint": Stage(lint),
    "unit": Stage(unit),
    "aws": Stage(aws, aws=True),
    "faults": Stage(faults, hosts=True),
    "storage": Stage(storage, hosts=True, loop_devices=True),
    "light": Stage(light, hosts=True),
    "gpu": Stage(gpu, hosts=True),
    "ubuntu": Stage(ubuntu, hosts=True),
    "box": Stage(box, hosts=True, engine=True),
    "demo": Stage(demo, hosts=True, engine=True),
    "bootstrap": Stage(bootstrap, hosts=True, engine=True),
}


def why_no_hosts() -> str:
    """Why this machine cannot make hosts; empty if it can."""
    if os.geteuid() != 0:
        return "making systemd hosts needs root"
    if not Path("/usr/bin/apt-get").exists():
        return "systemd hosts are made from Debian's or Ubuntu's packages, and there is no apt-get"
    return ""


def why_no_loop_devices() -> str:
    """Why this machine cannot make disks of files; empty if it can."""
    done = subprocess.run(["losetup", "--find"], capture_output=True, text=True)
    return f"block devices are NOT TESTED, there is no loop device: {done.stderr.strip()}" if done.returncode else ""


def why_no_aws() -> str:
    """Why this machine cannot simulate AWS; empty if it can."""
    done = subprocess.run([BIN / "python", "tests/aws/simulator.py"], cwd=ROOT, capture_output=True, text=True)
    return f"the Pulumi program is NOT TESTED beyond its unit tests: {done.stdout.strip()}" if done.returncode else ""


def run_stages(names: list[str]) -> list[str]:
    """Run stages until one fails; returns a line a stage, whose second word is passed, FAILED or SKIPPED."""
    lines: list[str] = []
    for name in names:
        stage = STAGES[name]
        reason = why_no_hosts() if stage.hosts else ""
        reason = reason or (why_no_loop_devices() if stage.loop_devices else "")
        reason = reason or (why_no_aws() if stage.aws else "")
        if reason:
            lines.append(f"{name:<10} SKIPPED  {reason}")
            continue
        print(f"\n=== {name}: {stage.work.__doc__}", flush=True)
        start = time.monotonic()
        try:
            stage.work()
            lines.append(f"{name:<10} passed   {time.monotonic() - start:5.0f} s")
        except StageError as fault:
            lines.append(f"{name:<10} FAILED   {time.monotonic() - start:5.0f} s: {fault}")
            break
    return lines


def report(lines: list[str]) -> int:
    """The end of a run: what became of each stage."""
    verdicts = [line.split()[1] for line in lines]
    print("\n" + "\n".join(lines))
    counts = [verdicts.count(verdict) for verdict in ("passed", "FAILED", "SKIPPED")]
    print(f"\n{counts[0]} passed, {counts[1]} failed, {counts[2]} skipped", flush=True)
    return 1 if counts[1] else 0


def run_lanes() -> int:
    """All stages; those without engines go on beside the others, in a process of their own."""
    start = time.monotonic()
    lines = run_stages(["setup"])
    if "FAILED" in lines[0]:
        return report(lines)
    OTHER_LANE_LOG.parent.mkdir(exist_ok=True)
    others = [name for name, stage in STAGES.items() if not stage.engine and name != "setup"]
    with OTHER_LANE_LOG.open("w") as log:
        other = subprocess.Popen([sys.executable, __file__, *others], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        lines += run_stages([name for name, stage in STAGES.items() if stage.engine])
        other.wait()
    said = OTHER_LANE_LOG.read_text(errors="replace")
    print(f"\n=== meanwhile, without an engine: {', '.join(others)}\n{said}")
    told = [line for line in said.splitlines() if line.split()[1:2] in (["passed"], ["FAILED"], ["SKIPPED"])]
    told = [line for line in told if line.split()[0] in others]
    if other.returncode and not any("FAILED" in line for line in told):
        told.append(f"{'others':<10} FAILED   the process of the other lane ended with status {other.returncode}")
    status = report(lines + told)
    print(f"in all: {time.monotonic() - start:.0f} s")
    return status


def main(names: list[str]) -> int:
    """Run what was asked for."""
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        print(f"error: no stage {unknown[0]}\n\nhint: the stages are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    return report(run_stages(names)) if names else run_lanes()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
