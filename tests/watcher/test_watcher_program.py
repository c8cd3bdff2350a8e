"""The program itself: its socket, its answers, its end, and its end without warning."""

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from watched_box import eventually, git, listed_by_git, write, write_walk
from watcher_program import PROGRAM, Answer, Connection, Program


def test_it_answers_as_the_gateway_expects(program: Program, repository: Path) -> None:
    write_walk(repository)
    program.start()
    assert stat.S_IMODE(program.socket.stat().st_mode) == 0o660
    first = program.pack()
    assert first.status == 200
    assert first.headers["Content-Type"] == "application/octet-stream"
    assert len(first.ids()) >= int(first.headers["X-Infbox-Base-Tokens"]) > 0
    assert first.headers["X-Infbox-Version"].isdecimal()
    same = program.pack(If_None_Match=first.headers["ETag"])
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert same.headers["X-Infbox-Base"] == first.headers["X-Infbox-Base"]
    write(repository, "a.py", "another = 1\n")
    second = program.pack(If_None_Match=first.headers["ETag"])
    assert second.status == 200
    assert second.ids()[: len(first.ids())] == first.ids()
    assert int(second.headers["X-Infbox-Version"]) > int(first.headers["X-Infbox-Version"])
    assert second.headers["X-Infbox-Base"] == first.headers["X-Infbox-Base"]
    assert program.end() == -signal.SIGTERM


def test_what_is_not_there_is_404_and_what_cannot_be_read_503(tmp_path: Path, repository: Path) -> None:
    program = Program(tmp_path / "box", repository, tmp_path / "none").start()
    try:
        assert program.ask("GET", "/workspaces/t/other/pack").status == 404
        assert program.ask("GET", "/workspaces/x/work/pack").status == 404
        assert program.ask("POST", "/workspaces/x/work/warm", "{}").status == 404
        gone = program.ask("GET", "/workspaces/t/none/pack")
        assert gone.status == 503
        assert int(gone.headers["Retry-After"]) > 0
        assert str(tmp_path / "none") in gone.json()["error"]
        assert program.pack().status == 200
        listed = program.ask("GET", "/workspaces").json()["workspaces"]
        assert [(each["tenant"], each["name"], each["state"]) for each in listed] == [
            ("t", "work", "ready"),
            ("t", "none", "failed"),
        ]
    finally:
        program.end(signal.SIGKILL)
        shutil.rmtree(program.run_folder)


def test_who_waits_for_another_pack_gets_it_with_the_next_save(program: Program, repository: Path) -> None:
    program.start()
    digest = program.pack().headers["ETag"].strip('"')
    began = time.monotonic()
    assert program.ask("GET", f"/workspaces/t/work/pack?after={digest}&wait=0.2").status == 304
    assert time.monotonic() - began >= 0.2
    other = program.ask("GET", "/workspaces/t/work/pack?after=0000&wait=30")
    assert (other.status, other.headers["ETag"].strip('"')) == (200, digest)
    connection = Connection(program.socket)
    connection.request("GET", f"/workspaces/t/work/pack?after={digest}&wait=60")
    write(repository, "a.py", "saved = 1\n")
    saved = Answer(connection.getresponse())
    assert saved.status == 200
    assert saved.headers["ETag"].strip('"') != digest
    for wrong in ("x", "-1", "nan"):
        assert program.ask("GET", f"/workspaces/t/work/pack?after=0&wait={wrong}").status == 400


def test_a_waiting_request_does_not_hold_up_the_end(program: Program) -> None:
    program.start()
    digest = program.pack().headers["ETag"].strip('"')
    connection = Connection(program.socket)
    connection.request("GET", f"/workspaces/t/work/pack?after={digest}&wait=60")
    time.sleep(0.2)
    began = time.monotonic()
    assert program.end() == -signal.SIGTERM
    assert time.monotonic() - began < 4
    assert Answer(connection.getresponse()).status == 304


def test_status_and_metrics_tell_of_saves_and_of_warmth(program: Program, repository: Path) -> None:
    program.start()
    program.pack()
    write(repository, "a.py", b"\0")
    write(repository, "src/b.py", "fresh = 1\n")
    pack = program.pack()
    digest = pack.headers["ETag"].strip('"')
    record = {"version": 2, "digest": digest, "tokens": 100, "cached_tokens": 90, "seconds": 0.25}
    assert program.ask("POST", "/workspaces/t/work/warm", json.dumps(record)).status == 204
    for wrong in ("", "[]", "{}", '{"digest": "x", "tokens": "y"}', "[" * 5000):
        assert program.ask("POST", "/workspaces/t/work/warm", wrong).status == 400
    (told,) = program.ask("GET", "/status").json()["workspaces"]
    assert (told["state"], told["files"], told["files_in_pack"]) == ("ready", 3, 2)
    assert list(told["excluded"].values()) == [1]
    assert told["is_warm"] is True
    assert told["warm_seconds"] >= told["visible_seconds"] > 0
    assert told["compute_seconds"] == 0.25
    assert told["watches"] >= 2
    families = {
        each.name: each for each in text_string_to_metric_families(program.ask("GET", "/metrics").body.decode())
    }
    assert all(name.startswith("infbox_watcher_") for name in families)
    assert [sample.value for sample in families["infbox_watcher_files"].samples] == [3]
    assert [sample.value for sample in families["infbox_watcher_warmed_cached_tokens"].samples] == [90]
    counts = [sample for sample in families["infbox_watcher_visible_seconds"].samples if sample.name.endswith("_count")]
    assert counts[0].value >= 1
    for method, is_warm in (("DELETE", False), ("POST", True)):
        assert program.ask(method, "/workspaces/t/work/warm", json.dumps(record)).status == 204
        (told,) = program.ask("GET", "/status").json()["workspaces"]
        assert (told["is_warm"], told["warm_seconds"]) == (is_warm, None)


def test_killed_at_any_moment_it_comes_back_with_the_truth(program: Program, repository: Path) -> None:
    program.start()
    first = program.pack()
    for number in range(4):
        for other in range(40):
            write(repository, f"src/f{other}.py", f"value = {number * other}\n")
            if other == number * 10:
                program.end(signal.SIGKILL)
        write(repository, "a.py", f"round = {number}\n")
        git(repository, "add", "-A")
        program.start()
        write(repository, "a.py", f"after = {number}\n")
        pack = program.pack()
        assert pack.status == 200
        assert pack.headers["X-Infbox-Base"] == first.headers["X-Infbox-Base"]
        (told,) = program.ask("GET", "/status").json()["workspaces"]
        assert told["files"] == len(listed_by_git(repository))
    saved = program.pack()
    assert program.end() == -signal.SIGTERM
    program.start()
    assert program.pack().headers["ETag"] == saved.headers["ETag"]


def test_it_sleeps_while_nothing_happens(program: Program) -> None:
    program.start()
    program.pack()
    assert program.process is not None

    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{program.process.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    eventually(lambda: [switches(), time.sleep(1.0), switches()].count(switches()) == 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WATCHER_SOCKET": ""}, "WATCHER_SOCKET is not set"),
        ({"WATCHER_SOCKET": "relative"}, "'relative', which is not an absolute path"),
        ({"WATCHER_STATE_DIR": ""}, "WATCHER_STATE_DIR is not set"),
        ({"WATCHER_WORKSPACES_FILE": "/nowhere/x.json"}, "/nowhere/x.json cannot be read"),
        ({"WATCHER_SOCKET": "/nowhere/x.sock"}, "WATCHER_SOCKET /nowhere/x.sock cannot be listened on"),
        ({"WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC is 'soon'"),
    ],
)
def test_a_wrong_environment_is_named(program: Program, change: dict[str, str], said: str) -> None:
    settings = {
        **os.environ,
        "WATCHER_SOCKET": str(program.socket),
        "WATCHER_WORKSPACES_FILE": str(program.folder / "workspaces.json"),
        "WATCHER_STATE_DIR": str(program.folder / "state"),
        **change,
    }
    done = subprocess.run([PROGRAM], env=settings, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert said in done.stderr
    assert "hint:" in done.stderr
