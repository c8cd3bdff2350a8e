"""`infbox gpu` as a program: the watch with stand-ins for journalctl and nvidia-smi, and what it tells others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infbox.cli import main
from infbox.commands import gpu as command
from infbox.gpu_health import state
from infbox.gpu_health.sources import Driver
from infbox.gpu_health.watch import Watch
from infbox.gpu_health.xid import Xid
from infbox.idle import boottime

GPU = "0000:17:00"


class Box:
    """A watch's folder, and programs in front of the machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "run", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        self.program("journalctl", "exec sleep 60")

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def logs(self, *numbers: int) -> None:
        """The kernel's log has these errors of now, and stays open."""
        now = int(time.monotonic() * 1e6)
        lines = [
            json.dumps({"MESSAGE": f"NVRM: Xid (PCI:{GPU}): {number}, pid=1", "__MONOTONIC_TIMESTAMP": str(now)})
            for number in numbers
        ]
        (self.bin / "lines").write_text("".join(f"{line}\n" for line in lines))
        self.program("journalctl", f"cat '{self.bin / 'lines'}'; exec sleep 60")

    def watch(self, **changed: str) -> subprocess.Popen[str]:
        settings = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "RUNTIME_DIRECTORY": str(self.folder),
            "GPU_HEALTH_POLL_SECONDS": "5",
            "GPU_HEALTH_RESTARTS_PER_HOUR": "2",
            "GPU_HEALTH_ENGINE_SOCKET": str(self.folder / "none"),
        }
        words = [sys.executable, "-c", "import sys; from infbox.cli import main; sys.exit(main(['gpu', 'watch']))"]
        return subprocess.Popen(words, env={**os.environ, **settings, **changed}, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip

    def told(self, seconds: float = 20.0) -> dict[str, Any]:
        """The state, once there is one."""
        end = time.monotonic() + seconds
        while not (found := state.read(self.folder)):
            assert time.monotonic() < end
            time.sleep(0.05)
        return found


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    found = Box(tmp_path)
    monkeypatch.setattr(state, "FOLDER", found.folder)
    monkeypatch.setattr(state.read, "__defaults__", (found.folder,))
    monkeypatch.setattr(state.cleared, "__defaults__", (found.folder,))
    return found


def stop(program: subprocess.Popen[str]) -> str:
    os.killpg(program.pid, signal.SIGTERM)
    return program.communicate(timeout=10)[0]


def test_the_watch_tells_of_what_is_in_the_log(box: Box) -> None:
    box.logs(79, 31, 31, 4711)
    running = box.watch()
    found = box.told()
    said = stop(running)
    assert "xid 79 reboot" in {alarm["kind"] for alarm in found["alarms"]}
    assert {(each["number"], each["count"]) for each in found["xids"]} == {(79, 1), (31, 2), (4711, 1)}
    assert "ALARM: Xid 79" in said
    assert (box.folder / "gpu.prom").stat().st_mode & 0o004


def test_the_watch_ends_with_a_fault_when_the_log_does(box: Box) -> None:
    box.program("journalctl", "echo 'no journal files were found' >&2; exit 1")
    running = box.watch()
    assert running.wait(20) == 1
    assert running.stdout
    assert "error: journalctl ended with status 1" in running.stdout.read()


def test_the_watch_ends_with_the_status_that_restarts_the_engine(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit has root do it; tests/faults sees that."""

    class Hung:
        def __init__(self, socket: str) -> None:
            self.socket = socket

        def since(self) -> float:
            return 1.0

        def answers(self) -> bool:
            return False

    box.logs(31)
    monkeypatch.setattr(command, "VllmEngine", Hung)
    monkeypatch.setattr("infbox.gpu_health.watch.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("infbox.gpu_health.watch.ASK_AGAIN_SECONDS", 0.0)
    monkeypatch.setenv("PATH", f"{box.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(box.folder))
    monkeypatch.setenv("GPU_HEALTH_POLL_SECONDS", "60")
    monkeypatch.setenv("GPU_HEALTH_RESTARTS_PER_HOUR", "2")
    assert main(["gpu", "watch"]) == command.RESTART_ENGINE
    assert "restarting it" in capsys.readouterr().out
    assert box.told()["restarts_total"] == 1
    assert main(["gpu", "watch"]) == command.RESTART_ENGINE
    assert len(box.told()["restarts"]) == 2


@pytest.mark.parametrize("number", ["", "4", "-1", "1.5", "many"])
def test_a_setting_that_is_no_number_is_named(box: Box, number: str) -> None:
    running = box.watch(GPU_HEALTH_POLL_SECONDS=number)
    assert running.wait(20) == 1
    assert running.stdout
    assert f"GPU_HEALTH_POLL_SECONDS is {number!r}" in running.stdout.read()


def test_a_torn_state_of_before_is_begun_anew(box: Box) -> None:
    (box.folder / state.STATE).write_text("{")
    running = box.watch()
    end = time.monotonic() + 20
    while (box.folder / state.STATE).read_text() == "{":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "beginning anew" in stop(running)


def kept(box: Box, *numbers: int, restarts: int = 0) -> None:
    watch = Watch(restarts_per_hour=2, say=lambda text: None, restarts_total=restarts)
    for number in numbers:
        watch.see(Xid(100.0, GPU, number))
    driver = Driver()
    driver.count = 2
    state.write(box.folder, watch, driver, boottime() + 60)


def test_status_is_for_people_and_programs(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "status"]) == 1
    assert "no watch over GPUs has run" in capsys.readouterr().err
    kept(box)
    assert main(["gpu", "status"]) == 0
    assert capsys.readouterr().out == "2 GPUs, no alarm\n"
    kept(box, 79, 31, restarts=3)
    assert main(["gpu", "status"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"ALARM: Xid 79 of the GPU at {GPU}: the GPU has fallen off the bus",
        "to do: reboot the machine, or power it off and on; replace the GPU if it comes again",
        f"Xid 31 of the GPU at {GPU}: 1 since the boot",
        f"Xid 79 of the GPU at {GPU}: 1 since the boot",
        "the engine was restarted after such errors: 3 times",
    ]
    assert main(["gpu", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == 2


def test_a_state_that_nobody_writes_any_more_is_said_to_be_old(box: Box) -> None:
    kept(box)
    found = box.told()
    assert "not watched over for 10 min" in state.describe(found, found["due"] + 610)[0]
    assert state.describe(found, found["due"]) == ["2 GPUs, no alarm"]


def test_a_check_asks_the_driver_and_the_watch(
    box: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[dict[str, str]] = []

    class Asked(Driver):
        def faults(self) -> tuple[list[dict[str, str]], bool]:
            self.count = 1
            return list(faults), False

    monkeypatch.setattr(command, "Driver", Asked)
    assert main(["gpu", "check"]) == 0
    assert capsys.readouterr().out == "1 GPU, healthy\n"
    kept(box, 95)
    faults.append({"address": f"{GPU}.0", "kind": "missing", "what": "nvidia-smi does not list it", "hint": "look"})
    assert main(["gpu", "check"]) == 1
    told = capsys.readouterr().err
    assert f"the GPU at {GPU}.0: nvidia-smi does not list it; Xid 95 of the GPU at {GPU}" in told
    assert "hint: look; stop infbox-vllm, `nvidia-smi --gpu-reset`" in told


def test_clear_is_seen_by_the_watch(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "clear"]) == 0
    assert 0 < state.cleared(box.folder) <= boottime()
    (box.folder / state.CLEARED).write_text("never")
    assert state.cleared(box.folder) == 0.0


def test_prometheus_reads_the_metrics(box: Box) -> None:
    kept(box, 79, 31, restarts=1)
    families = {each.name: each for each in text_string_to_metric_families((box.folder / state.METRICS).read_text())}
    assert families["infbox_gpu_gpus"].samples[0].value == 2
    assert families["infbox_gpu_alarms"].samples[0].value == 1
    assert families["infbox_gpu_engine_restarts"].samples[0].value == 1
    labels = [sample.labels for sample in families["infbox_gpu_xid_errors"].samples]
    assert labels == [{"gpu": GPU, "xid": "31"}, {"gpu": GPU, "xid": "79"}]
