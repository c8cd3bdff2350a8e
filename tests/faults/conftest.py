"""Faults that people make and disks have, on a real host without an engine: `pytest tests/faults`.

Each stops the playbook with one clear message, leaves nothing half-broken, and is gone after the mend. They take some
minutes and need root, so they run only when they are asked for by their folder.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_box import ROOT, FaultyBox

sys.path.insert(0, str(ROOT / "hosts"))
import host as hosts

HERE = Path(__file__).parent
NAME = "infbox-faults"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in asked) else True


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyBox]:
    """A bare host; the tests of a file converge it in their order."""
    if os.geteuid() != 0:
        pytest.exit("tests/faults makes a host, which needs root\n\nhint: sudo .venv/bin/pytest tests/faults", 4)
    folder = tmp_path_factory.mktemp("faults")
    try:
        hosts.down(NAME)
        facts = hosts.up(NAME, str(hosts.os_release()["VERSION_CODENAME"]), folder)
    except hosts.HostError as fault:
        pytest.exit(f"tests/faults makes a host, and there is none: {fault}", 4)
    inventory = hosts.write_inventory(folder / "inventory.yml", facts, "cpu")
    yield FaultyBox(hosts.ssh_command(facts), inventory)
    hosts.down(NAME)


@pytest.fixture(scope="session")
def converged(box: FaultyBox) -> FaultyBox:
    """The host with all roles but the engine."""
    done = box.play()
    assert done.returncode == 0, done.stdout[-4000:]
    return box
