"""A machine that nobody uses powers itself off, and one that is in use does not. The last of this folder: it stops it.

Looks from outside go through podman, for a login over SSH would keep the machine up.
"""

import json
import subprocess
import time

import host as hosts
from conftest import NAME
from faulty_box import FaultyBox, changed, message

MINUTES = 0.2
PAST = MINUTES * 60 * 1.7
# An engine that takes a question and never answers; and a client that waits.
ENGINE = """
import os, socket
os.makedirs("/run/infbox-vllm", exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind("/run/infbox-vllm/vllm.sock")
os.chmod("/run/infbox-vllm/vllm.sock", 0o666)
server.listen()
open_ = []
while True:
    open_.append(server.accept())
"""
CLIENT = """
import socket
key = open("/etc/infbox/keys/default.key").read().strip()
client = socket.socket(socket.AF_UNIX)
client.connect("/run/infbox-gateway/gateway.sock")
body = '{"model": "m", "messages": []}'
client.sendall(f"POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer {key}\\r\\n"
               f"content-type: application/json\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}".encode())
client.recv(1)
"""


def inside(*command: str) -> str:
    """Run a command on the host without logging into it."""
    return hosts.podman("exec", NAME, *command, check=False)


def status() -> dict[str, object]:
    return json.loads(inside("infbox", "idle", "status", "--json") or "{}")


def runs() -> bool:
    return hosts.podman("inspect", "--format", "{{.State.Running}}", NAME) == "true"


def wait_until_it_says(what: str) -> None:
    end = time.monotonic() + 30
    while what not in str(status().get("why")):
        assert time.monotonic() < end, status()
        time.sleep(0.3)


def test_the_watch_is_off_unless_it_is_asked_for_and_then_changes_nothing_twice(converged: FaultyBox) -> None:
    assert converged.run("systemctl cat infbox-idle-stop", check=False).returncode != 0
    assert changed(converged.play(tags="idle_stop", idle_stop_after_minutes=30)) > 0
    assert converged.says("systemctl is-active infbox-idle-stop") == "active"
    assert changed(converged.play(tags="idle_stop", idle_stop_after_minutes=30)) == 0
    assert changed(converged.play("--check", tags="idle_stop", idle_stop_after_minutes=30)) == 0
    said = converged.says("infbox idle status")
    assert "root is logged in" in said
    assert "idle_stop_after_minutes is 30" in said


def test_set_back_to_zero_it_is_gone(converged: FaultyBox) -> None:
    assert changed(converged.play(tags="idle_stop", idle_stop_after_minutes=0)) > 0
    assert converged.run("systemctl cat infbox-idle-stop", check=False).returncode != 0
    assert converged.run("ls /etc/infbox/idle-stop.env", check=False).returncode != 0
    assert changed(converged.play(tags="idle_stop", idle_stop_after_minutes=0)) == 0
    assert "idle stop is off" in converged.says("infbox idle status")


def test_a_negative_time_is_named(converged: FaultyBox) -> None:
    assert "`idle_stop_after_minutes` is -5" in message(converged.play(tags="idle_stop", idle_stop_after_minutes=-5))


def test_a_gateway_that_is_down_is_said_once_and_keeps_the_machine_up(converged: FaultyBox) -> None:
    assert changed(converged.play(tags="idle_stop", idle_stop_after_minutes=1)) > 0
    short = f"sed -i 's/MINUTES=.*/MINUTES=\"{MINUTES}\"/' /etc/infbox/idle-stop.env"
    converged.run(f"systemctl stop infbox-gateway; {short}; systemctl restart infbox-idle-stop")
    inside("sh", "-c", "loginctl list-sessions --no-legend | awk '{print $1}' | xargs loginctl terminate-session")
    wait_until_it_says("cannot tell whether the machine is idle: the gateway's record")
    time.sleep(PAST)
    assert runs()
    journal = inside("journalctl", "--unit", "infbox-idle-stop", "--output=cat")
    assert journal.count("cannot tell whether the machine is idle") == 1, journal
    inside("systemctl", "start", "infbox-gateway")


def test_a_login_keeps_the_machine_up(converged: FaultyBox) -> None:
    with subprocess.Popen([*converged.login, "sleep 1000"]) as session:
        try:
            wait_until_it_says("root is logged in")
            time.sleep(PAST)
            assert runs()
        finally:
            session.kill()


def test_an_open_request_keeps_the_machine_up_and_its_end_lets_it_stop_and_it_says_why(converged: FaultyBox) -> None:
    hosts.podman("exec", "--detach", NAME, "python3", "-c", ENGINE)
    hosts.podman("exec", "--detach", NAME, "python3", "-c", CLIENT)
    wait_until_it_says("1 request in flight")
    time.sleep(PAST)
    assert runs()
    follow = ["podman", "exec", NAME, "journalctl", "--follow", "--unit=infbox-idle-stop", "--output=cat"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as journal:
        inside("pkill", "--full", "sendall")
        end = time.monotonic() + 60
        while runs():
            assert time.monotonic() < end, status()
            time.sleep(0.5)
        assert journal.stdout
        said = journal.stdout.read()
    assert said.count(f"powering off (idle_stop_after_minutes is {MINUTES})") == 1, said
    assert "nobody logged in for" in said


def test_the_next_boot_gets_its_whole_time(converged: FaultyBox) -> None:
    hosts.podman("start", NAME)
    hosts.wait_until_booted(NAME)
    wait_until_it_says("no request for")
    assert runs()
