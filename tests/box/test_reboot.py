"""A reboot of the host, and the box answers by itself."""

import sys
from pathlib import Path

import pytest
from live_box import LiveBox, until

sys.path.insert(0, str(Path(__file__).parents[2] / "hosts"))
import host


@pytest.fixture
def switch_on(box: LiveBox):
    """Start a host that has gone down, with the address it had; a machine of its own does that by itself."""
    name = box.run("hostname")
    if not (host.STATE / "storage.conf").exists():
        return lambda: None
    host.prepare_machine()
    container = host.podman("inspect", "--format", "{{.Id}}", name, check=False)

    def start() -> None:
        if not container:
            return
        until(lambda: not host.is_running(name), 60, "the host is down")
        host.switch_on(name, box.host)
        # Where cgroups are of both versions, systemd in a container started again removes what podman enters it by.
        for entry in Path("/sys/fs/cgroup/pids").rglob(f"libpod-{container}"):
            again = Path("/sys/fs/cgroup/systemd") / entry.relative_to("/sys/fs/cgroup/pids")
            until(lambda: box.answers("/health"), 120, "Caddy and gateway answer")
            again.mkdir(parents=True, exist_ok=True)

    return start


def test_a_rebooted_host_answers_by_itself_with_the_same_keys_and_authority(box: LiveBox, switch_on):
    before = box.run("cat /proc/sys/kernel/random/boot_id")
    box.run("systemctl reboot", check=False)
    until(lambda: not box.answers("/health"), 60, "the box goes down")
    switch_on()
    box.wait_until_answering("/ready", 400)
    assert "Paris" in box.chat("What is the capital of France?")["choices"][0]["message"]["content"]
    assert box.run("cat /proc/sys/kernel/random/boot_id") != before
    until(lambda: box.run("systemctl is-system-running", check=False) == "running", 60, "all units are up")
