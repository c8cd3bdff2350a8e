"""`infbox box`: a box's services without Ansible."""

import re

from live_box import LiveBox


def test_they_are_stopped_started_and_looked_at(box: LiveBox) -> None:
    told = box.run("infbox box status")
    assert re.search(r"^vllm +running, for .*, [0-9,]+ MiB\b", told, re.MULTILINE), told
    assert re.search(r"^firewall +exited, for ", told, re.MULTILINE), told
    assert re.search(r"^answers +yes$", told, re.MULTILINE), told
    refused = box.run("runuser -u nobody -- infbox box stop 2>&1; echo status $?")
    assert "only root may stop services" in refused
    assert "status 1" in refused
    box.run("infbox box stop", timeout=120)
    assert not box.answers("/health")
    told = box.run("infbox box status; echo status $?")
    assert re.search(r"^vllm +stopped$", told, re.MULTILINE), told
    assert re.search(r"^answers +no: ", told, re.MULTILINE), told
    assert "status 1" in told
    assert "active" in box.run("systemctl is-active infbox-firewall")
    started = box.run("infbox box start", timeout=300)
    assert re.search(r"^answers +yes$", started, re.MULTILINE), started
    assert box.answers("/health")
