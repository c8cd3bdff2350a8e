"""Tests of a whole box from outside, with its real engine: `pytest tests/box --box .demo/box.json`.

They kill, restart and reboot what they test, so they run only when they are asked for by their folder. `make demo`
makes a box and writes the file that `--box` takes.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_box import LiveBox

HOW = "tests/box needs a box: make demo, then pytest tests/box --box .demo/box.json"
# The first of these that a test has says when it runs.
APART = ("soak", "kv_long", "kv")
UNITS = ("infbox-caddy", "infbox-gateway", "infbox-watcher", "infbox-vllm")


def pytest_addoption(parser: pytest.Parser) -> None:
    # pytest reads options from this file only where tests/box is named on its command line.
    parser.addoption("--box", help="the box's url, ca_file, api_key, model and ssh, as JSON (default: .demo/box.json)")
    parser.addoption("--seed", type=int, default=None, help="seed of the soak's random operations (default: random)")
    parser.addoption("--operations", type=int, default=400, help="operations of the long soak (default: %(default)s)")
    parser.addoption("--kv-restarts", type=int, default=1, help="restarts under load with -m kv (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: the long run of random faults under load; runs with -m soak alone")
    config.addinivalue_line("markers", "kv: of a box with LMCache's daemon; runs with -m kv alone")
    config.addinivalue_line("markers", "kv_long: of such a box, in `make soak`; runs with -m kv_long alone")


def _asked(config: pytest.Config) -> bool:
    """Whether somebody named this folder, or a part of it."""
    here = Path(__file__).parent
    return any(here in (path, *path.parents) for path in (Path(arg.split("::")[0]).absolute() for arg in config.args))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    asked = _asked(config)
    chosen = config.getoption("markexpr", "")
    kept, left = [], []
    for item in items:
        ours = here in item.path.parents
        apart = next((name for name in APART if item.get_closest_marker(name)), chosen)
        runs = not ours or (asked and apart == chosen)
        (kept if runs else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
    # A reboot comes last: what it would hide must have been seen.
    items.sort(key=lambda item: item.path.name == "test_reboot.py" and here in item.path.parents)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _asked(config) and terminalreporter.stats.get("deselected"):
        terminalreporter.write_line(f"not run: {HOW}")


@pytest.fixture(scope="session")
def box(pytestconfig: pytest.Config) -> LiveBox:
    path = Path(pytestconfig.getoption("box") or ".demo/box.json")
    if not path.exists():
        pytest.exit(f"there is no {path}; {HOW}", returncode=4)
    return LiveBox.read(path)


@pytest.fixture(autouse=True)
def _journals(request: pytest.FixtureRequest, box: LiveBox) -> Iterator[None]:
    """What the units said during a test that fails is part of its report."""
    begun = time.monotonic()
    yield
    if getattr(request.node, "failed", False):
        for unit in UNITS:
            print(f"--- journal of {unit}\n{box.journal(unit, time.monotonic() - begun + 1)}")
        box.wait_until_answering()  # the next test's failures are to be its own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call" and report.failed:
        item.failed = True
    return report
