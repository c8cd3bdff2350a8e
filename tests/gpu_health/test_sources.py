"""What the watch rests on: a journalctl and a systemctl of the test's own, an engine's socket."""

import http.server
import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from infbox.errors import InfboxError, NotReadyError
from infbox.gpu_health import sources
from infbox.gpu_health.sources import Driver, KernelLog, VllmEngine, log_command
from infbox.idle import UnknownError

ERROR = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


def entry(message: object, at: object = "5000000") -> str:
    """As journalctl writes it, without spaces."""
    return json.dumps({"MESSAGE": message, "__MONOTONIC_TIMESTAMP": at}, separators=(",", ":"))


def log_of(tmp_path: Path, *lines: str, then: str = "import time; time.sleep(60)") -> KernelLog:
    """A journalctl that prints these lines, and does something then."""
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    program = f"import sys; sys.stdout.write(open({str(tmp_path / 'lines')!r}).read()); sys.stdout.flush(); {then}"
    return KernelLog([sys.executable, "-c", program], ahead=lambda: 100.0)


def taken(log: KernelLog, seconds: float = 10.0) -> list[Any]:
    """All that comes until nothing does for half a second."""
    found = log.take(seconds)
    while more := log.take(0.5):
        found += more
    return found


def test_errors_come_with_their_time_and_all_else_is_passed_over(tmp_path: Path) -> None:
    log = log_of(
        tmp_path, "", "garbage", "[]", "null", "{}", entry(None), entry(7), entry(ERROR, "soon"), entry([300, "x"]),
        entry("NVRM: Xid nothing"), "[" * 30_000, entry("NVRM: Xid " + "x" * 500_000), entry(list(ERROR.encode())),
        entry(ERROR, "7500000"),
    )  # fmt: skip
    assert [(xid.number, xid.at) for xid in taken(log)] == [(79, 105.0), (79, 107.5)]
    log.close()


def test_a_long_log_of_other_things_is_read_fast(tmp_path: Path) -> None:
    log = log_of(
        tmp_path, *[entry("usb 1-1: new high-speed USB device number 2 using xhci_hcd")] * 200_000, entry(ERROR)
    )
    assert len(taken(log, 30.0)) == 1
    log.close()


def test_a_flood_is_taken_in_parts(tmp_path: Path) -> None:
    log = log_of(tmp_path, *[entry(ERROR)] * 25_000)
    first = log.take(10.0)
    assert 0 < len(first) <= sources.MOST_WAITING
    assert len(first) + len(taken(log)) == 25_000
    log.close()


def test_a_quiet_log_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    began = time.monotonic()
    assert log.take(0.3) == []
    assert 0.2 < time.monotonic() - began < 5
    log.close()


def test_a_log_that_ends_is_a_fault(tmp_path: Path) -> None:
    log = log_of(tmp_path, entry(ERROR), then="sys.exit(3)")
    assert len(log.take(10.0)) == 1
    with pytest.raises(InfboxError, match="journalctl ended with status 3"):
        log.take(10.0)
    with pytest.raises(InfboxError, match="cannot be read"):
        KernelLog(["/nonexistent/journalctl"])


def test_this_boots_errors_of_the_kernel_alone_are_asked_for() -> None:
    command = log_command()
    assert command[0] == "journalctl"
    assert {"--boot", "--follow", "--no-tail", "_TRANSPORT=kernel"} <= set(command)


def facts(*gpus: dict[str, Any], fault: str = "") -> dict[str, Any]:
    return {"gpus": list(gpus), "driver_fault": fault, "nvswitches": 0, "ram_gib": 1.0}


def gpu(address: str, driver: str = "nvidia", **health: object) -> dict[str, Any]:
    well = {"uncorrected_errors": 0, "remap_pending": False, "remap_failed": False, "recovery": ""}
    return {"address": address, "device": "26b9", "driver": driver, "health": well | health}


ONE, TWO = gpu("0000:01:00.0"), gpu("0000:02:00.0")


def test_a_gpu_that_leaves_pci_or_the_driver_is_missed(tmp_path: Path) -> None:
    answers = [facts(ONE, TWO), facts(ONE), facts({**ONE, "driver": ""}), facts(fault="it hangs"), facts(ONE, TWO)]
    driver = Driver(facts=lambda: answers.pop(0))
    assert driver.faults() == ([], False)
    assert driver.count == 2
    assert [(fault["kind"], fault["address"]) for fault in driver.faults()[0]] == [("away", "0000:02:00.0")]
    assert {fault["kind"] for fault in driver.faults()[0]} == {"away", "driver"}
    faults, silent = driver.faults()
    assert silent
    assert {fault["what"] for fault in faults} == {"it was on PCI, and is not any more", "it hangs"}
    assert driver.faults() == ([], False)
    assert driver.known == {"0000:01:00.0", "0000:02:00.0"}


def test_gpus_that_a_watch_before_knew_are_missed_and_so_is_the_first() -> None:
    assert Driver({"0000:02:00.0"}, lambda: facts(ONE)).faults()[0][0]["kind"] == "away"
    assert Driver(facts=facts).faults()[0][0]["kind"] == "none"


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers as the test says."""

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "m"}]}, 200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.status  # type: ignore[attr-defined]
        if status == 0:
            time.sleep(1)
        self.answer({"choices": [{}], "usage": {"completion_tokens": 1}}, status or 200)

    def answer(self, body: object, status: int) -> None:
        told = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "the watch"


class Server(socketserver.ThreadingUnixStreamServer):
    status = 200
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """The watch does not wait for ever."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(str(tmp_path / "socket"), Engine) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.mark.parametrize(("status", "answers"), [(200, True), (400, True), (500, False), (503, False), (0, False)])
def test_an_engine_answers_when_it_produces_a_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int, answers: bool
) -> None:
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 20.0 if status else 0.3)
    server.status = status
    assert VllmEngine(str(server.server_address)).answers() is answers


def test_an_engine_that_nobody_reaches_is_not_up_yet(tmp_path: Path) -> None:
    assert VllmEngine(str(tmp_path / "none")).answers() is None
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "closed"))
    assert VllmEngine(str(tmp_path / "closed")).answers() is None


def test_of_an_engine_whose_socket_is_closed_to_the_watch_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotReadyError("connect: Permission denied") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "generate_over", refuse)
    assert VllmEngine("").answers() is None


SHOWN = "ActiveState={}\nExecMainStartTimestampMonotonic={}\n"


@pytest.mark.parametrize(
    ("said", "since"),
    [
        (SHOWN.format("active", 20_500_000), 120.5),
        (SHOWN.format("activating", 20_500_000), 120.5),
        (SHOWN.format("deactivating", 20_500_000), 120.5),
        (SHOWN.format("inactive", 0), None),
        (SHOWN.format("failed", 20_500_000), None),
        (SHOWN.format("active", "?"), 0.0),
        ("ActiveState=active\n", 0.0),
        ("", 0.0),
    ],
)
def test_since_when_an_engine_runs_is_systemds_to_say(said: str, since: float | None) -> None:
    assert VllmEngine("", lambda words: said, ahead=lambda: 100.0).since() == since


def test_a_systemd_that_does_not_say_leaves_the_engine_to_be_asked() -> None:
    def silent(words: Sequence[str]) -> str:
        raise UnknownError("`systemctl` does not answer")

    assert VllmEngine("", silent).since() == 0.0
