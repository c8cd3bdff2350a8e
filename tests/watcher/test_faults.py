"""What goes wrong on real machines: the kernel's limits, lost folders, full disks, killed processes."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from watched_box import Box, eventually, git, listed_by_git, write, write_walk

from infbox.watcher import workspace as workspace_module
from infbox.watcher.files import lasting, stamp_of
from infbox.watcher.watches import IN_Q_OVERFLOW, Event, Kernel, open_kernel
from infbox.watcher.workspace import UnavailableError


class FaultyKernel:
    """The real one, that can refuse watches and lose events."""

    def __init__(self) -> None:
        self.real: Kernel = open_kernel()
        self.room = 10**9
        self.losing = False
        self.overflowed = False

    def fileno(self) -> int:
        return self.real.fileno()

    def add_watch(self, path: str, mask: int) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        return self.real.add_watch(path, mask)

    def rm_watch(self, wd: int) -> None:
        self.real.rm_watch(wd)

    def read(self, timeout: int) -> Iterable[Event]:
        events = list(self.real.read(timeout))
        if self.losing:
            events = []
        if self.overflowed:
            self.overflowed = False
            events = [*events, Event(-1, IN_Q_OVERFLOW, 0, "")]
        return events

    def close(self) -> None:
        self.real.close()


@pytest.fixture
def kernel() -> FaultyKernel:
    return FaultyKernel()


def test_events_that_the_kernel_lost_are_made_up_for(
    repository: Path, make_box: Callable[..., Box], kernel: FaultyKernel
) -> None:
    write(repository, "lib/b.py", "lib\n")
    box = make_box(repository, kernel=kernel).start()
    box.pack()
    kernel.losing = True
    write(repository, "x/y/new.py", "new\n")
    os.rename(repository / "src", repository / "tmp")
    os.rename(repository / "lib", repository / "src")
    os.rename(repository / "tmp", repository / "lib")
    write(repository, "a.py", "lost\n")
    time.sleep(0.2)
    box.watcher.watches.read()
    kernel.losing, kernel.overflowed = False, True
    shown = box.shown()
    assert shown.keys() == listed_by_git(repository)
    assert (shown["a.py"], shown["src/b.py"], shown["lib/b.py"]) == ("lost\n", "lib\n", "two = 2\n")
    # One at a time: an event under the old name of a folder would make the other one be looked at.
    for path in ("lib/b.py", "src/b.py", "x/y/new.py"):
        write(repository, path, f"{path} again\n")
        assert box.shown()[path] == f"{path} again\n"


def test_folders_without_a_watch_are_polled_and_it_is_said_how_to_get_more(
    repository: Path,
    make_box: Callable[..., Box],
    kernel: FaultyKernel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workspace_module, "POLL_SECONDS", 0.1)
    for number in range(10):
        write(repository, f"d{number}/f.py", "f\n")
    kernel.room = 6
    with caplog.at_level(logging.ERROR):
        box = make_box(repository, kernel=kernel).start()
    assert "fs.inotify.max_user_watches" in caplog.text
    assert caplog.text.count("max_user_watches is used up") == 1
    fault = box.workspace.tree.watch_fault("t/work")
    assert fault is not None
    assert "sysctl fs.inotify.max_user_watches=" in fault.hint
    for number in range(10):
        write(repository, f"d{number}/f.py", "changed\n")
        write(repository, f"d{number}/new/g.py", "new\n")
    shown = box.shown()
    assert shown.keys() == listed_by_git(repository)
    assert {shown[f"d{number}/f.py"] for number in range(10)} == {"changed\n"}
    shutil.rmtree(repository / "d9")
    eventually(lambda: "d9/f.py" not in box.workspace.pack.workspace())
    kernel.room = 10**9
    eventually(lambda: box.workspace.tree.watch_fault("t/work") is None)
    write(repository, "d8/new/g.py", "newer\n")
    assert box.shown()["d8/new/g.py"] == "newer\n"


def test_a_workspace_that_is_deleted_and_made_again(
    box: Box, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_module, "RETRY_SECONDS", 0.1)
    shutil.rmtree(repository)
    with pytest.raises(UnavailableError, match="work"):
        box.pack()
    assert box.workspace.state == "failed"
    repository.mkdir()
    write(repository, "fresh.py", "fresh\n")
    eventually(lambda: box.workspace.state == "ready")
    assert box.shown() == {"fresh.py": "fresh\n"}
    write(repository, "fresh.py", "fresher\n")
    assert box.shown() == {"fresh.py": "fresher\n"}


def test_a_workspace_that_is_replaced_between_two_requests(box: Box, repository: Path, tmp_path: Path) -> None:
    write(tmp_path, "other/a.py", "other\n")
    os.rename(repository, tmp_path / "old")
    os.rename(tmp_path / "other", repository)
    assert box.shown() == {"a.py": "other\n"}
    write(tmp_path, "old/a.py", "old\n")
    write(repository, "b.py", "b\n")
    assert box.shown() == {"a.py": "other\n", "b.py": "b\n"}


def test_one_workspace_that_fails_leaves_the_others_alone(
    repository: Path, tmp_path: Path, make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_module, "RETRY_SECONDS", 0.1)
    box = make_box(repository, tmp_path / "later").start()
    other = box.watcher.workspaces["t", "later"]
    assert other.state == "failed"
    write(repository, "a.py", "fine\n")
    assert box.shown()["a.py"] == "fine\n"
    with pytest.raises(UnavailableError):
        box.watcher.pack("t", "later")
    write(tmp_path, "later/x.py", "x\n")
    eventually(lambda: other.state == "ready")
    assert box.watcher.pack("t", "later").workspace() == {"x.py": "x\n"}


def test_two_workspaces_in_one_another(repository: Path, make_box: Callable[..., Box]) -> None:
    box = make_box(repository, repository / "src").start()
    write(repository, "src/b.py", "both\n")
    assert box.shown()["src/b.py"] == "both\n"
    assert box.watcher.pack("t", "src").workspace() == {"b.py": "both\n"}


def test_a_disk_without_room_stops_nothing_and_is_said_once(
    box: Box, repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    eventually(lambda: not box.workspace.is_unsaved)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(workspace_module, "write_state", full)
        with caplog.at_level(logging.ERROR):
            for number in range(3):
                write(repository, "a.py", f"{number}\n")
                assert box.shown()["a.py"] == f"{number}\n"
                box.workspace.keep()
        assert caplog.text.count("No space left") == 1
        assert "No space left" in box.workspace.state_fault
    box.workspace.keep()
    assert box.workspace.state_fault == ""


def test_a_restart_gives_the_same_tokens_and_catches_up(repository: Path, make_box: Callable[..., Box]) -> None:
    box = make_box(repository).start()
    write(repository, "a.py", "before\n")
    first = box.pack()
    box.stop()
    again = make_box(repository).start()
    assert again.pack().digest == first.digest
    again.stop()
    write(repository, "a.py", "while down\n")
    write(repository, "new/x.py", "x\n")
    (repository / "src/b.py").unlink()
    third = make_box(repository).start()
    pack = third.pack()
    assert pack.workspace().keys() == listed_by_git(repository)
    assert pack.workspace()["a.py"] == "while down\n"
    assert pack.base_digest == first.base_digest
    assert pack.ids[: first.tokens].tolist() == first.ids.tolist()
    assert pack.version > first.version


def test_a_restart_reads_no_file_that_is_as_it_was(repository: Path, make_box: Callable[..., Box]) -> None:
    for number in range(20):
        write(repository, f"f{number}.py", f"{number}\n")
    time.sleep(0.2)  # the file system's clock has to move on, or nobody can tell
    box = make_box(repository).start()
    box.stop()
    again = make_box(repository)
    read: list[str] = []
    from infbox.pack.select import Selector

    real = Selector.read
    Selector.read = lambda self, path: read.append(path) or real(self, path)  # type: ignore[method-assign]
    try:
        again.start()
    finally:
        Selector.read = real  # type: ignore[method-assign]
    assert again.shown().keys() == listed_by_git(repository)
    assert read == []


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "foreign", "gone", "folder"])
@pytest.mark.parametrize("name", ["pack", "files"])
def test_damaged_state_is_made_from_scratch_and_said_once(
    repository: Path, make_box: Callable[..., Box], damage: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    box = make_box(repository).start()
    box.pack()
    box.stop()
    place = box.folder / "state/t/work" / name
    content = place.read_bytes()
    place.unlink()
    if damage == "folder":
        place.mkdir()
    elif damage != "gone":
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        place.write_bytes({"empty": b"", "half": content[:middle], "bit": flipped, "foreign": b"PK\3\4" * 99}[damage])
    write(repository, "a.py", "after\n")
    with caplog.at_level(logging.WARNING, logger="infbox.watcher.workspace"):
        again = make_box(repository).start()
    shown = again.shown()
    assert shown.keys() == listed_by_git(repository)
    assert shown["a.py"] == "after\n"
    if (name, damage) != ("pack", "gone"):
        assert caplog.text.count("made from scratch") == 1


def test_a_clock_that_is_set_back_hides_nothing(
    repository: Path, make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make_box(repository).start()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
    write(repository, "a.py", "1111\n")
    box.pack()
    box.stop()
    status = (repository / "a.py").stat()
    with (repository / "a.py").open("r+") as file:
        file.write("2222\n")
    os.utime(repository / "a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert make_box(repository).start().shown()["a.py"] == "2222\n"


def test_a_stamp_that_the_next_change_might_leave_as_it_is_is_not_kept(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "a")
    status = (tmp_path / "a.py").stat()
    stamp, changed = stamp_of(status), status.st_ctime_ns
    assert lasting(stamp, changed) == b""
    assert lasting(stamp, changed - 3_600_000_000_000) == b""
    assert lasting(stamp, changed + 1_000_000_000) == stamp


def test_a_pack_larger_than_its_budget_shows_recent_saves(repository: Path, make_box: Callable[..., Box]) -> None:
    for number in range(60):
        write(repository, f"old/f{number}.py", f"value = {number}\n" * 50)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "old")
    box = make_box(repository, tokens=3000).start()
    assert box.pack().tokens <= 3000
    write(repository, "old/f7.py", "now = 7\n")
    assert box.shown()["old/f7.py"] == "now = 7\n"
    assert box.pack().tokens <= 3000


def test_a_base_is_made_anew_in_the_background(repository: Path, make_box: Callable[..., Box]) -> None:
    box = make_box(repository).start()
    base = box.pack().base_digest
    for number in range(400):
        write(repository, "a.py", f"number = {number}\n" * 20)
        box.pack()
        if box.workspace.rebases:
            break
    eventually(lambda: box.workspace.rebases > 0)
    pack = box.pack()
    assert pack.base_digest != base
    assert pack.workspace()["a.py"] == (repository / "a.py").read_text()


def test_what_was_saved_is_in_a_base_after_quiet_minutes(
    repository: Path, make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_walk(repository)
    box = make_box(repository).start()
    monkeypatch.setattr(workspace_module, "IDLE_REBASE_SECONDS", 0.2)
    write(repository, "a.py", "quiet = True\n")
    assert box.pack().overlay
    eventually(lambda: not box.pack().overlay)
    assert box.workspace.rebases == 1
    assert box.shown()["a.py"] == "quiet = True\n"
    before = box.pack()
    time.sleep(0.5)
    assert box.pack() is before


def test_a_pack_that_was_asked_for_has_what_is_due_after_it_done(
    repository: Path, make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that waits for the kernel has seen the save, and has nothing more to wait for."""
    write_walk(repository)
    box = make_box(repository).start()
    monkeypatch.setattr(workspace_module, "IDLE_REBASE_SECONDS", 0.2)
    noted = box.workspace.changes.due
    monkeypatch.setattr(box.workspace.changes, "due", lambda: None)
    write(repository, "a.py", "quiet = True\n")
    eventually(lambda: noted() is not None)
    time.sleep(0.2)
    assert box.pack().overlay
    eventually(lambda: not box.pack().overlay)
