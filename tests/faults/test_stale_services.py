"""A service runs with its files of now: what `infbox_service` takes for newer than a service's start."""

import time
from datetime import UTC, datetime
from types import ModuleType

import host as hosts
import pytest
from faulty_box import FaultyBox, ansible_module

FILE = "/etc/infbox/stale-test"


@pytest.fixture
def module() -> ModuleType:
    """The module itself, for the clock's faults, which no host can be given."""
    return ansible_module("infbox_service")


def started(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, wall: float, uptime: float, now: tuple[float, float]
) -> float:
    """When a unit started that systemd saw start at `wall`, `uptime`; asked at `now`, also wall clock and uptime."""
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    monkeypatch.setattr(module.time, "clock_gettime", lambda _: now[1])
    text = datetime.fromtimestamp(wall, UTC).strftime("%a %Y-%m-%d %H:%M:%S.%f UTC")
    return module.started_at({"InactiveExitTimestamp": text, "InactiveExitTimestampMonotonic": str(int(uptime * 1e6))})


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((1_700_000_100.0, 600.0), 1_700_000_000.0),  # nothing happened
        ((1_700_003_700.0, 600.0), 1_700_000_000.0),  # the clock was set forward
        ((1_699_996_500.0, 600.0), 1_699_996_400.0),  # the clock was set back: files of now have such dates
    ],
)
def test_a_clock_that_was_set_hides_no_change(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, now: tuple[float, float], said: float
) -> None:
    assert started(module, monkeypatch, 1_700_000_000.0, 500.0, now) == pytest.approx(said, abs=0.02)


@pytest.mark.parametrize("never", ["", "n/a"])
def test_a_unit_that_never_started_is_older_than_everything(module: ModuleType, never: str) -> None:
    assert module.started_at({"InactiveExitTimestamp": never, "InactiveExitTimestampMonotonic": "0"}) == 0


def test_a_file_that_changed_in_the_second_of_the_start(converged: FaultyBox) -> None:
    converged.run(f"systemctl restart infbox-gateway && echo 1 >{FILE}")
    assert converged.restarts("gateway", files=[FILE])
    assert not converged.restarts("gateway", files=[FILE])


def test_a_file_that_was_there_before_the_start_of_the_same_second(converged: FaultyBox) -> None:
    converged.run(f"echo 1 >{FILE} && sleep 0.05 && systemctl restart infbox-gateway")
    assert not converged.restarts("gateway", files=[FILE])


def test_a_file_that_keeps_an_old_date(converged: FaultyBox) -> None:
    converged.run(f"touch --date=2020-01-01 {FILE}.new && mv {FILE}.new {FILE}")
    assert converged.restarts("gateway", files=[FILE])
    assert not converged.restarts("gateway", files=[FILE])


def test_a_service_that_came_back_by_itself_before_systemd_read_its_new_unit(converged: FaultyBox) -> None:
    unit = "/etc/systemd/system/infbox-gateway.service"
    before = converged.pid("gateway")
    converged.run(f"sed -i 's/^TimeoutStopSec=.*/TimeoutStopSec=44/' {unit}; kill -9 {before}")
    for _ in range(60):
        if converged.run("systemctl is-active infbox-gateway", check=False).returncode == 0:
            break
        time.sleep(0.25)
    assert converged.pid("gateway") != before
    assert converged.says("systemctl show --property=TimeoutStopUSec --value infbox-gateway") != "44s"
    assert converged.restarts("gateway")
    assert converged.says("systemctl show --property=TimeoutStopUSec --value infbox-gateway") == "44s"


def test_nothing_is_restarted_after_a_reboot(converged: FaultyBox) -> None:
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    before = converged.says(boot_id)
    converged.run("systemctl reboot", check=False)
    end = time.monotonic() + 30
    while hosts.podman("inspect", "--format", "{{.State.Running}}", "infbox-faults") == "true":
        assert time.monotonic() < end, "the host did not go down"
        time.sleep(0.5)
    # Its container ends with a reboot; `up` starts it again, at another address.
    facts = hosts.up("infbox-faults", "", converged.inventory.parent)
    hosts.write_inventory(converged.inventory, facts, "cpu")
    converged.login = hosts.ssh_command(facts)
    assert converged.says(boot_id) != before
    converged.run("systemctl is-system-running --wait", check=False)
    for name in ("gateway", "caddy"):
        assert not converged.restarts(name)
