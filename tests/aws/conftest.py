"""One simulated AWS for all tests in this folder. Where it cannot run, each test says why.

A provider waits for most of its time, 10 s at a time, so the tests of this folder go on side by side: a test that is
decorated with `journey` runs in a thread, with a checkout of its own, and what pytest calls waits for it.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import simulator
from project import Project

SIDE_BY_SIDE = 12
UBUNTU = "ami-0c0ffee0000002204"


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    """The cloud."""
    if reason := simulator.why_not():
        pytest.skip(reason)
    made = simulator.Simulator(tmp_path_factory.mktemp("aws"))
    yield made
    made.close()


def public_key(folder: Path) -> str:
    """A person's public key."""
    file = folder / "id_ed25519"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "you@host", "-f", str(file)]
    subprocess.run(command, check=True)
    return file.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="session")
def new_project(aws: simulator.Simulator, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """Makes a checkout whose stacks have what a person must set."""
    folder = tmp_path_factory.mktemp("projects")
    needed = {"infbox:image": UBUNTU, "infbox:sshCidrs": ["203.0.113.7/32"], "infbox:sshPublicKey": public_key(folder)}

    def make(name: str) -> Project:
        copy = simulator.copy_project(folder / name)
        for file in copy.glob("Pulumi.*.yaml"):
            content = yaml.safe_load(file.read_text())
            content["config"] |= needed
            file.write_text(yaml.safe_dump(content))
        return Project(aws, copy)

    return make


@pytest.fixture(scope="session")
def journeys(
    request: pytest.FixtureRequest, new_project: Callable[[str], Project]
) -> Iterator[dict[str, Future[None]]]:
    """Every selected journey on its way, by its name."""
    selected = [item.callspec.params["journey"] for item in request.session.items if "journeys" in item.fixturenames]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        projects = {each.__name__: new_project(each.__name__.removeprefix("journey_")) for each in selected}
        yield {each.__name__: pool.submit(each, projects[each.__name__]) for each in selected}
