"""The watch over GPUs, on a host without one: errors are written into its journal, and the engine is a stand-in.

What is real: the unit and its sandbox, the journal, and who may restart what. A container's journal has
no kernel's log, and units in it see the machine's boot id in place of its own, so the watch is told to follow what
programs say, of any boot (--merge).
"""

import json
import shlex
import time
from collections.abc import Iterator

import pytest
from faulty_box import FaultyBox, changed, message

WANTED = {"tags": "gpu_health", "gpu_health_gpus": "1xL40S"}
# It lists its model, and fails every other request.
ENGINE = """
import http.server, os, socketserver
class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.tell(200, b'{"data": [{"id": "m"}]}')
    def do_POST(self):
        self.tell(500, b'{}')
    def tell(self, status, body):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return ''
path = '/run/infbox-vllm/vllm.sock'
os.path.exists(path) and os.unlink(path)
server = socketserver.UnixStreamServer(path, Failing)
os.chmod(path, 0o770)
server.serve_forever()
"""
UNIT = """[Service]
User=infbox-vllm
Group=infbox-vllm
RuntimeDirectory=infbox-vllm
RuntimeDirectoryMode=0750
ExecStart=/usr/bin/python3 /opt/infbox/failing.py
"""


def write(box: FaultyBox, path: str, text: str) -> None:
    box.run(f"printf %s {shlex.quote(text)} >{path}")


def status(box: FaultyBox) -> dict[str, list[dict[str, str]]]:
    return json.loads(box.run("infbox gpu status --json").stdout)


def kinds(box: FaultyBox) -> set[str]:
    return {alarm["kind"] for alarm in status(box)["alarms"]}


def xid(box: FaultyBox, number: int, text: str) -> None:
    box.run(f"echo 'NVRM: Xid (PCI:0000:17:00): {number}, pid=1, name=python3, {text}' | systemd-cat")


@pytest.fixture(scope="module")
def watched(converged: FaultyBox) -> Iterator[FaultyBox]:
    """The host with the watch, and the stand-in."""
    assert changed(converged.play(**WANTED)) > 0
    write(converged, "/opt/infbox/failing.py", ENGINE)
    write(converged, "/etc/systemd/system/infbox-vllm.service", UNIT)
    converged.run("systemctl daemon-reload && systemctl start infbox-vllm")
    yield converged
    converged.run("systemctl stop infbox-vllm; rm -f /opt/infbox/failing.py /etc/systemd/system/infbox-vllm.service")
    converged.run("systemctl daemon-reload")


def test_it_is_there_where_gpus_are_and_changes_nothing_twice(watched: FaultyBox) -> None:
    assert changed(watched.play(**WANTED)) == 0
    assert changed(watched.play("--check", **WANTED)) == 0
    assert watched.says("systemctl show --property=User --value infbox-gpu-health") == "infbox-gpu"
    assert watched.says("runuser -u nobody -- infbox gpu status --json")


def test_errors_are_seen_and_a_hung_engine_is_restarted_without_rights(watched: FaultyBox) -> None:
    watched.run(
        """echo 'GPU_HEALTH_JOURNAL="--merge _TRANSPORT=stdout"' >>/etc/infbox/gpu-health.env
        systemctl restart infbox-gpu-health"""
    )
    engine, watch = watched.pid("vllm"), watched.pid("gpu-health")
    capabilities = watched.says(f"grep CapEff /proc/{watch}/status").split()[-1]
    assert int(capabilities, 16) == 0
    xid(watched, 79, "GPU has fallen off the bus.")
    xid(watched, 31, "MMU Fault: ENGINE GRAPHICS GPC1")
    end = time.monotonic() + 90
    while watched.run("systemctl show --property=MainPID --value infbox-vllm").stdout.strip() in (engine, "0"):
        assert time.monotonic() < end, watched.says("journalctl -u infbox-gpu-health -o cat")
        time.sleep(1)
    said = watched.says("journalctl -u infbox-gpu-health -o cat")
    assert said.count("the engine does not answer after Xid 31 of the GPU at 0000:17:00: restarting it") == 1, said
    assert watched.pid("vllm") != engine


def test_it_goes_on_and_leaves_the_new_engine_alone(watched: FaultyBox) -> None:
    end = time.monotonic() + 60
    while watched.run("systemctl is-active infbox-gpu-health", check=False).stdout.strip() != "active":
        assert time.monotonic() < end
        time.sleep(0.2)
    engine = watched.pid("vllm")
    time.sleep(5)
    found = status(watched)
    assert found["restarts_total"] == 1
    assert "xid 79 reboot" in kinds(watched)
    assert watched.pid("vllm") == engine
    assert 'xid="79"} 1' in watched.says("cat /run/infbox-gpu-health/gpu.prom")
    shown = watched.run("infbox box status", check=False).stdout
    assert "GPUs            ALARM: Xid 79 of the GPU at 0000:17:00: the GPU has fallen off the bus" in shown
    assert watched.run("runuser -u nobody -- infbox gpu clear", check=False).returncode == 1
    watched.run("infbox gpu clear")
    end = time.monotonic() + 30
    while "xid 79 reboot" in kinds(watched):
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_check_says_what_is_wrong(watched: FaultyBox) -> None:
    done = watched.run("infbox gpu check", check=False)
    assert done.returncode == 1
    assert "this machine has no NVIDIA GPU on PCI" in done.stderr


def test_a_number_that_means_nothing_is_named(watched: FaultyBox) -> None:
    said = message(watched.play(**WANTED, gpu_health_poll_seconds=1))
    assert "`gpu_health_poll_seconds` is 1" in said
    assert "hint: set the first to 5 or more" in said


def test_without_gpus_it_is_gone(watched: FaultyBox) -> None:
    assert changed(watched.play(tags="gpu_health")) > 0
    assert watched.run("systemctl cat infbox-gpu-health", check=False).returncode != 0
    assert changed(watched.play(tags="gpu_health")) == 0
