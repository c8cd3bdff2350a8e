"""What people and editors do to files, and what the next request sees of it."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from watched_box import Box, eventually, git, listed_by_git, write

from infbox.pack.select import Selector


def test_the_first_pack_shows_what_git_would_take(box: Box, repository: Path) -> None:
    assert box.shown().keys() == listed_by_git(repository) == {"a.py", "src/b.py", ".gitignore"}


def test_a_save_is_in_the_pack_of_the_request_after_it(box: Box, repository: Path) -> None:
    for number in range(30):
        write(repository, "a.py", f"one = {number}\n")
        assert box.shown()["a.py"] == f"one = {number}\n"


def test_a_save_of_the_same_length_within_a_clock_tick_is_seen(box: Box, repository: Path) -> None:
    for text in ("aa\n", "bb\n", "cc\n", "dd\n", "ee\n"):
        write(repository, "a.py", text)
        assert box.shown()["a.py"] == text


def test_a_save_without_a_change_makes_no_new_pack(box: Box, repository: Path) -> None:
    before = box.pack()
    write(repository, "a.py", "one = 1\n")
    os.utime(repository / "a.py")
    assert box.pack() is before


def test_saves_are_seen_without_a_request(box: Box, repository: Path) -> None:
    write(repository, "a.py", "one = 3\n")
    eventually(lambda: box.workspace.pack.workspace()["a.py"] == "one = 3\n")


def test_a_new_file_in_new_folders_is_seen(box: Box, repository: Path) -> None:
    write(repository, "x/y/z/new.py", "new\n")
    assert box.shown()["x/y/z/new.py"] == "new\n"
    write(repository, "x/y/z/new.py", "newer\n")
    assert box.shown()["x/y/z/new.py"] == "newer\n"


def test_a_deleted_file_and_a_deleted_tree_are_gone(box: Box, repository: Path) -> None:
    (repository / "a.py").unlink()
    shutil.rmtree(repository / "src")
    assert box.shown().keys() == {".gitignore"}


def test_a_moved_tree_is_watched_where_it_is_now(box: Box, repository: Path) -> None:
    os.rename(repository / "src", repository / "lib")
    assert box.shown().keys() == {"a.py", "lib/b.py", ".gitignore"}
    write(repository, "lib/b.py", "three\n")
    write(repository, "src/b.py", "four\n")
    shown = box.shown()
    assert (shown["lib/b.py"], shown["src/b.py"]) == ("three\n", "four\n")


def test_two_trees_that_swap_their_names_are_seen(box: Box, repository: Path) -> None:
    write(repository, "lib/b.py", "lib\n")
    box.pack()
    os.rename(repository / "src", repository / "tmp")
    os.rename(repository / "lib", repository / "src")
    os.rename(repository / "tmp", repository / "lib")
    write(repository, "lib/b.py", "changed\n")
    assert box.shown() == {
        "a.py": "one = 1\n",
        "src/b.py": "lib\n",
        "lib/b.py": "changed\n",
        ".gitignore": "build/\n*.log\n",
    }


def test_a_tree_that_is_moved_out_and_in_again_is_seen(box: Box, repository: Path, tmp_path: Path) -> None:
    os.rename(repository / "src", tmp_path / "away")
    assert "src/b.py" not in box.shown()
    write(tmp_path, "away/b.py", "elsewhere\n")
    os.rename(tmp_path / "away", repository / "src")
    assert box.shown()["src/b.py"] == "elsewhere\n"


def test_a_file_that_becomes_a_folder_and_a_folder_that_becomes_a_file(box: Box, repository: Path) -> None:
    (repository / "a.py").unlink()
    write(repository, "a.py/inner.py", "inner\n")
    shutil.rmtree(repository / "src")
    write(repository, "src", "file\n")
    assert box.shown().keys() == {"a.py/inner.py", "src", ".gitignore"}


def vim(place: Path, text: str) -> None:
    """backupcopy=no: rename to a backup, write anew, remove the backup; and vim's probe for whether it may write."""
    folder = place.parent
    (folder / "4913").touch()
    (folder / "4913").unlink()
    os.rename(place, f"{place}~")
    place.write_text(text)
    os.unlink(f"{place}~")


def vs_code(place: Path, text: str) -> None:
    """Truncate and write in one open."""
    file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(file, text.encode())
    os.fdatasync(file)
    os.close(file)


def jetbrains(place: Path, text: str) -> None:
    """Safe write: a temporary file, the old one renamed, the new one in its place."""
    temporary, old = Path(f"{place}___jb_tmp___"), Path(f"{place}___jb_old___")
    temporary.write_text(text)
    os.rename(place, old)
    os.rename(temporary, place)
    old.unlink()


def rename_over(place: Path, text: str) -> None:
    """What most programs do that care: a temporary file, fsync, rename over the old one."""
    temporary = place.with_name(f".{place.name}.swp")
    temporary.write_text(text)
    os.replace(temporary, place)


def hard_link(place: Path, text: str) -> None:
    """A link is made without a close."""
    temporary = place.with_name(f".{place.name}.tmp")
    temporary.write_text(text)
    place.unlink()
    os.link(temporary, place)
    temporary.unlink()


@pytest.mark.parametrize("save", [vim, vs_code, jetbrains, rename_over, hard_link])
def test_editors_ways_of_saving(box: Box, repository: Path, save: Callable[[Path, str], None]) -> None:
    for number in range(5):
        save(repository / "src/b.py", f"saved = {number}\n")
        shown = box.shown()
        assert shown["src/b.py"] == f"saved = {number}\n"
        assert shown.keys() == {"a.py", "src/b.py", ".gitignore"}


def test_a_half_written_file_is_not_shown_before_it_is_closed(box: Box, repository: Path) -> None:
    with (repository / "a.py").open("r+") as file:
        file.truncate()
        file.write("ha")
        file.flush()
        assert box.shown()["a.py"] == "one = 1\n"
        file.write("lf\n")
    assert box.shown()["a.py"] == "half\n"


def test_a_file_that_is_never_closed_becomes_visible(box: Box, repository: Path) -> None:
    with (repository / "new.py").open("w") as file:
        file.write("line\n")
        file.flush()
        eventually(lambda: box.shown().get("new.py") == "line\n")


def test_a_file_that_is_written_to_all_the_time_becomes_visible(box: Box, repository: Path) -> None:
    stop = threading.Event()

    def keep_writing() -> None:
        with (repository / "a.py").open("a") as file:
            while not stop.wait(0.005):
                file.write("more\n")
                file.flush()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        eventually(lambda: "more" in box.shown()["a.py"])
    finally:
        stop.set()
        writer.join()


def test_a_checkout_of_many_files_becomes_one_version(box: Box, repository: Path) -> None:
    git(repository, "checkout", "-qb", "other")
    for number in range(1500):
        write(repository, f"many/{number % 40}/f{number}.py", f"n = {number}\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "many")
    git(repository, "checkout", "-q", "main")
    assert box.shown().keys() == listed_by_git(repository)
    eventually(lambda: box.workspace.changes.due() is None)
    before = box.pack().version
    git(repository, "checkout", "-q", "other")
    eventually(lambda: len(box.workspace.pack.workspace()) == 1503)
    assert box.workspace.pack.version - before <= 2
    assert box.shown().keys() == listed_by_git(repository)


def test_a_clone_into_an_empty_workspace_is_ordered_by_its_history(
    root: Path, tmp_path: Path, make_box: Callable[..., Box]
) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q")
    for name in ("b.py", "c.py", "a.py"):
        write(origin, name, f"{name[0]} = 1\n" * 50)
        git(origin, "add", ".")
        git(origin, "commit", "-qm", name)
    box = make_box(root).start()
    empty = box.pack()
    git(root, "clone", "-q", str(origin), ".")
    eventually(lambda: box.shown().keys() == {"a.py", "b.py", "c.py"})
    pack = box.pack()
    assert [segment.path for segment in pack.base] == ["b.py", "c.py", "a.py"]
    assert pack.overlay == ()
    assert pack.version > empty.version


def test_a_small_pack_gets_a_new_base_with_each_save(repository: Path, make_box: Callable[..., Box]) -> None:
    box = make_box(repository, tokens=50_000).start()
    for number in range(3):
        write(repository, "a.py", f"one = {number + 7}\n")
        pack = box.pack()
        assert pack.overlay == ()
        assert pack.workspace()["a.py"] == f"one = {number + 7}\n"
        assert pack.base[-1].path == "a.py"


def test_a_burst_of_more_than_a_pack_can_hold_is_not_all_read(
    repository: Path, make_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make_box(repository, tokens=2_000).start()
    read: list[str] = []
    selector_read = Selector.read
    monkeypatch.setattr(Selector, "read", lambda self, path: read.append(path) or selector_read(self, path))
    for number in range(60):
        write(repository, f"many/{number}.py", f"value_{number} = {number}\n" * 40)
    eventually(lambda: len(box.workspace.files) >= 60)
    pack = box.pack()
    assert len(set(read)) < 60
    assert pack.tokens <= 2_000
    assert pack.workspace()


def test_names_that_are_hard_to_write_down(box: Box, repository: Path) -> None:
    names = ["new\nline.py", " space .py", 'quote".py', "ü.py", os.fsdecode(b"latin\xe9.py"), "-rf", "*", "[a].py"]
    for name in names:
        write(repository, f"d/{name}", f"{len(name)}\n")
    shown = box.shown()
    assert {f"d/{name}" for name in names} <= shown.keys() == listed_by_git(repository)
    for name in names:
        (repository / "d" / name).unlink()
    assert not any(path.startswith("d/") for path in box.shown())


def test_links_fifos_and_sockets_are_no_files_and_block_nobody(box: Box, repository: Path, tmp_path: Path) -> None:
    write(tmp_path, "secret.txt", "outside\n")
    os.symlink(tmp_path / "secret.txt", repository / "link.txt")
    os.symlink(tmp_path, repository / "out")
    os.symlink("..", repository / "src/loop")
    os.mkfifo(repository / "fifo.py")
    assert box.shown().keys() == {"a.py", "src/b.py", ".gitignore"}
    (repository / "a.py").unlink()
    os.mkfifo(repository / "a.py")
    (repository / "src/b.py").unlink()
    os.symlink(tmp_path / "secret.txt", repository / "src/b.py")
    assert box.shown().keys() == {".gitignore"}


def test_what_a_pack_may_not_hold_is_counted_and_comes_in_when_it_changes(box: Box, repository: Path) -> None:
    write(repository, "a.py", b"bin\0ary")
    assert "a.py" not in box.shown()
    write(repository, "big.txt", "x" * 600_000)
    assert "big.txt" not in box.shown()
    assert {len(reason) > 5 for reason in [box.workspace.files[path].excluded for path in ("a.py", "big.txt")]} == {
        True
    }
    write(repository, "a.py", "text\n")
    write(repository, "big.txt", "small\n")
    shown = box.shown()
    assert (shown["a.py"], shown["big.txt"]) == ("text\n", "small\n")


def test_nothing_wakes_up_while_nothing_happens(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    eventually(lambda: not box.workspace.is_unsaved)
    seen = []
    read = box.watcher.watches.read
    monkeypatch.setattr(box.watcher.watches, "read", lambda: seen.append(1) or read())
    time.sleep(0.3)  # whatever is on its way
    seen.clear()
    time.sleep(1.0)
    assert seen == []
