"""Random faults under load: a short slice with every other test of the box, and the long run with `-m soak`."""

import json
import secrets

import pytest
from live_box import LiveBox
from soak import Soak

# The engine's own faults cost a minute each, and test_kills.py has them.
SLICE = [
    ("kill", "infbox-gateway"), ("kill", "infbox-caddy"), ("key", "infbox-gateway"),
    ("restart", "infbox-gateway"), ("restart", "infbox-caddy"),
]  # fmt: skip


def report(soak: Soak, faults: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nsoak with seed {soak.seed}")
        figures = soak.run(faults)
        print(json.dumps(figures, indent=2))
    assert not soak.violations, "\n".join([f"{len(soak.violations)} violations; seed {soak.seed}", *soak.violations])


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    given = pytestconfig.getoption("seed")
    return secrets.randbelow(10**6) if given is None else given


def test_a_short_run_of_faults_under_load_breaks_no_promise(box: LiveBox, seed: int, capsys):
    report(Soak(box, seed), SLICE, capsys)


@pytest.mark.soak
def test_a_long_run_of_random_faults_under_load_breaks_no_promise(
    box: LiveBox, seed: int, pytestconfig: pytest.Config, capsys
):
    soak = Soak(box, seed)
    report(soak, soak.plan(pytestconfig.getoption("operations")), capsys)
