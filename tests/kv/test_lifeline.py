"""An engine knows of its daemon whether it lives, and never takes another for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infbox.kv import lifeline
from infbox.kv.lifeline import Lifeline

HOLD = """
import sys, pathlib
from infbox.kv.lifeline import hold
hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
Daemon = subprocess.Popen[str]


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "lmcache.sock"


@pytest.fixture
def start(socket: Path) -> Iterator[Callable[[], Daemon]]:
    running: list[Daemon] = []

    def begin() -> Daemon:
        words = [sys.executable, "-c", HOLD, str(socket)]
        running.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout
        assert running[-1].stdout.readline() == "held\n"
        return running[-1]

    yield begin
    for each in running:
        each.kill()
        each.communicate()


def test_one_that_lives_is_not_lost_even_if_it_stands_still(socket: Path, start: Callable[[], Daemon]) -> None:
    daemon = start()
    seen = Lifeline(socket)
    assert not seen.lost()
    os.kill(daemon.pid, signal.SIGSTOP)
    assert not seen.lost()
    assert not seen.gone()


def test_one_that_was_killed_is_lost_at_once_and_gone_a_little_later(
    socket: Path, start: Callable[[], Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start()
    seen = Lifeline(socket)
    daemon.kill()
    daemon.wait()
    assert seen.lost()
    assert not seen.gone()
    monkeypatch.setattr(lifeline, "GRACE_SECONDS", 0.0)
    assert seen.gone()


def test_the_next_one_is_another(socket: Path, start: Callable[[], Daemon]) -> None:
    daemon = start()
    seen = Lifeline(socket)
    daemon.kill()
    daemon.wait()
    start()
    assert seen.lost()
    assert not Lifeline(socket).lost()


@pytest.mark.parametrize("left", [None, b""], ids=["nothing", "a file that nobody holds"])
def test_where_none_is_there_it_is_lost(socket: Path, left: bytes | None) -> None:
    if left is not None:
        socket.with_suffix(".alive").write_bytes(left)
    assert Lifeline(socket).lost()
