"""What belongs to a workspace: git's own answer, links, boundaries, limits, and what is said of what is left out."""

import os
import socket
from pathlib import Path

import pytest
from workspaces import everything, git, listed_by_git, write

from infbox.errors import WorkspaceError
from infbox.pack.select import Exclusion, Limits, Selector


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    git(root, "init", "-q")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    root.mkdir()
    return root


def agrees(root: Path) -> Selector:
    """The selector of a workspace whose listing is git's, and whose `taken` is its listing."""
    selector = Selector(root)
    listing = selector.listing()
    assert listing.files == listed_by_git(root)
    files, folders = everything(root)
    assert Selector(root).taken([*files, *folders, ""]) == {*listing.files, *listing.folders}
    return selector


def test_tracked_though_ignored_files_are_taken_and_their_ignored_neighbours_are_not(repository: Path) -> None:
    write(repository, **{".gitignore": "build/\n", "build/kept": "", "build/made": "", "build/deep/made": ""})
    git(repository, "add", "-f", "build/kept")
    selector = agrees(repository)
    assert selector.listing().files == [".gitignore", "build/kept"]
    assert selector.listing().folders == ["", "build"]
    assert selector.explain("build/kept") is None
    assert selector.explain("build/made") == Exclusion("git ignores it", ".gitignore:1:build/")


def test_nested_ignore_files_and_negation_are_gits(repository: Path) -> None:
    write(
        repository, **{".gitignore": "*.log\n", "a/.gitignore": "!keep.log\n/only\n", "a/keep.log": "", "a/b.log": ""}
    )
    write(repository, **{"a/only": "", "a/b/only": "", "keep.log": ""})
    assert agrees(repository).listing().files == [".gitignore", "a/.gitignore", "a/b/only", "a/keep.log"]


def test_the_repositorys_own_and_the_global_excludes_count(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    write(tmp_path, **{"xdg/git/ignore": "*.global\n"})
    write(repository, **{".git/info/exclude": "*.own\n", "a.own": "", "a.global": "", "a": ""})
    selector = agrees(repository)
    assert selector.listing().files == ["a"]
    assert selector.explain("a.own") == Exclusion("git ignores it", ".git/info/exclude:1:*.own")
    assert {repository / ".git/info/exclude", tmp_path / "xdg/git/ignore"} <= selector.rule_files()


def test_an_excludes_file_named_in_a_configuration_is_a_rule_file(repository: Path, tmp_path: Path) -> None:
    write(tmp_path, mine="*.x\n")
    git(repository, "config", "core.excludesFile", str(tmp_path / "mine"))
    write(repository, **{"a.x": "", "b": ""})
    selector = agrees(repository)
    assert selector.listing().files == ["b"]
    assert {tmp_path / "mine", repository / ".git/config", repository / ".git/index"} <= selector.rule_files()


def test_a_deleted_tracked_file_is_not_listed(repository: Path) -> None:
    write(repository, a="", b="")
    git(repository, "add", ".")
    (repository / "a").unlink()
    assert agrees(repository).listing().files == ["b"]


def test_a_folder_that_is_no_repository_has_the_same_rules(folder: Path) -> None:
    write(
        folder,
        **{".gitignore": "*.log\nout/\n", "a.log": "", "b/c": "", "out/x/y": "", "b/.gitignore": "d\n", "b/d": ""},
    )
    (folder / "empty").mkdir()
    selector = Selector(folder)
    listing = selector.listing()
    assert listing.files == [".gitignore", "b/.gitignore", "b/c"]
    assert listing.folders == ["", "b", "empty"]
    assert selector.explain("b/d") == Exclusion("git ignores it", "b/.gitignore:1:d")
    assert sorted(os.listdir(folder)) == [".gitignore", "a.log", "b", "empty", "out"]
    agrees_after_init = folder
    git(agrees_after_init, "init", "-q")
    assert selector.listing() == listing


def test_a_worktree_is_asked_through_its_git_file(repository: Path, tmp_path: Path) -> None:
    write(repository, a="", **{".git/info/exclude": "*.own\n"})
    git(repository, "add", "a")
    git(repository, "commit", "-qm", "first")
    git(repository, "worktree", "add", "-q", str(tmp_path / "other"))
    write(tmp_path / "other", **{"b": "", "c.own": ""})
    selector = agrees(tmp_path / "other")
    assert selector.listing().files == ["a", "b"]
    assert repository / ".git/worktrees/other/index" in selector.rule_files()
    assert repository / ".git/info/exclude" in selector.rule_files()


def test_submodules_and_repositories_inside_are_boundaries(repository: Path, tmp_path: Path) -> None:
    write(repository, a="", **{"vendor/lib/x": "", "vendor/y": ""})
    git(repository / "vendor/lib", "init", "-q")
    write(tmp_path / "origin", f="")
    git(tmp_path / "origin", "init", "-q")
    git(tmp_path / "origin", "add", ".")
    git(tmp_path / "origin", "commit", "-qm", "first")
    git(repository, "submodule", "add", "-q", str(tmp_path / "origin"), "module")
    selector = agrees(repository)
    listing = selector.listing()
    assert listing.boundaries == ["module", "vendor/lib"]
    assert listing.files == [".gitmodules", "a", "vendor/y"]
    assert listing.folders == ["", "vendor"]
    assert str(selector.explain("module/f")) == "it belongs to another repository (module/)"
    assert str(selector.explain("vendor/lib/x")) == "it belongs to another repository (vendor/lib/)"
    assert agrees(repository / "module").listing().files == ["f"]


def test_a_submodule_that_was_never_fetched_stays_a_boundary(repository: Path) -> None:
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    write(repository, **{"module/put here": "", "a": ""})
    assert agrees(repository).listing().files == ["a"]


def test_a_workspace_may_be_a_folder_of_a_repository(repository: Path) -> None:
    write(
        repository, **{".gitignore": "*.log\n/part/made\n", "part/a.log": "", "part/made/x": "", "part/b": "", "c": ""}
    )
    selector = agrees(repository / "part")
    assert selector.listing().files == ["b"]
    assert selector.explain("made/x") == Exclusion("git ignores it", ".gitignore:2:/part/made")
    assert repository / ".gitignore" in selector.rule_files()


def test_core_ignorecase_is_heeded(repository: Path) -> None:
    git(repository, "config", "core.ignorecase", "true")
    write(repository, **{".gitignore": "*.LOG\n", "a.log": "", "b": "", "Tracked": ""})
    git(repository, "add", "Tracked")
    (repository / "Tracked").rename(repository / "tracked")
    assert agrees(repository).listing().files == [".gitignore", "b"]


def test_an_infboxignore_leaves_out_what_git_takes_even_when_tracked(repository: Path) -> None:
    write(repository, **{".infboxignore": "data/\n*.svg\n!logo.svg\n", "data/a/b": "", "x.svg": "", "logo.svg": ""})
    write(
        repository,
        **{"sub/.infboxignore": "/here\n", "sub/here": "", "sub/a/here": "", ".gitignore": "*.o\n", "a.o": ""},
    )
    git(repository, "add", ".")
    selector = Selector(repository)
    listing = selector.listing()
    wanted = [".gitignore", ".infboxignore", "logo.svg", "sub/.infboxignore", "sub/a/here"]
    assert listing.files == wanted
    assert listing.folders == ["", "sub", "sub/a"]
    files, folders = everything(repository)
    assert Selector(repository).taken([*files, *folders]) == {*wanted, "sub", "sub/a"}
    assert selector.explain("data/a/b") == Exclusion("an .infboxignore leaves it out", ".infboxignore:1:data/")
    assert selector.explain("sub/here") == Exclusion("an .infboxignore leaves it out", "sub/.infboxignore:1:/here")
    assert selector.explain("a.o") == Exclusion("git ignores it", ".gitignore:1:*.o")


def test_an_infboxignore_above_the_workspace_counts(repository: Path) -> None:
    write(repository, **{".infboxignore": "*.svg\n", "part/x.svg": "", "part/y": ""})
    selector = Selector(repository / "part")
    assert selector.listing().files == ["y"]
    assert selector.taken(["x.svg", "y"]) == {"y"}
    assert str(selector.explain("x.svg")) == "an .infboxignore leaves it out (.infboxignore:1:*.svg)"
    assert repository / ".infboxignore" in selector.rule_files()


def test_an_ignored_tree_is_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, **{".gitignore": "node_modules/\n", "a/b": "", "node_modules/x/y/z": ""})
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: entered.append(str(place)) or scandir(place))
    Selector(folder).listing()
    assert any("/a'" in place for place in entered)
    assert not [place for place in entered if "node_modules" in place]


def test_links_are_never_followed_and_explain_says_where_they_lead(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, secret="out")
    write(folder, **{"a": "in", "d/f": "in"})
    (folder / "inside").symlink_to("a")
    (folder / "outside").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    selector = Selector(folder)
    assert selector.listing().files == ["a", "d/f"]
    assert selector.taken(["inside", "outside", "loop", "up", "up/secret", "a"]) == {"a"}
    refused = "and links are never followed"
    assert str(selector.explain("inside")) == f"it is a symlink, {refused} (inside -> a)"
    assert (
        str(selector.explain("outside"))
        == f"it is a symlink that leaves the workspace, {refused} (outside -> ../secret)"
    )
    assert (
        str(selector.explain("up/secret"))
        == f"it lies behind a symlink that leaves the workspace, {refused} (up -> ..)"
    )
    assert selector.explain("loop") is not None
    for path in ("inside", "outside", "loop", "up/secret"):
        assert "symlink" in str(selector.read(path))


def test_a_tracked_folder_that_became_a_link_is_not_entered(repository: Path, tmp_path: Path) -> None:
    write(repository, **{"d/f": "in"})
    git(repository, "add", ".")
    (repository / "d").rename(tmp_path / "moved")
    (repository / "d").symlink_to(tmp_path / "moved")
    assert agrees(repository).listing().files == []
    assert "behind a symlink" in str(Selector(repository).read("d/f"))


def test_fifos_sockets_and_folders_are_no_files_and_hold_nobody_up(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        selector = Selector(folder)
        assert selector.listing().files == []
        assert selector.explain("fifo") == selector.read("fifo") == Exclusion("it is a FIFO")
        assert selector.explain("socket") == selector.read("socket") == Exclusion("it is a socket")
        assert selector.read("d") == Exclusion("it is a folder")
        assert selector.explain("d") is None


def test_a_fifo_for_an_ignore_file_is_a_clear_error_and_no_hang(folder: Path) -> None:
    os.mkfifo(folder / ".gitignore")
    with pytest.raises(WorkspaceError, match=r"did not end within 0\.5 seconds"):
        Selector(folder, Limits(git_seconds=0.5)).listing()


def test_a_file_over_the_limit_is_left_out(folder: Path) -> None:
    write(folder, small="x" * 100, large="x" * 101)
    selector = Selector(folder, Limits(max_file_bytes=100))
    assert selector.read("small") == b"x" * 100
    assert (
        str(selector.read("large"))
        == str(selector.explain("large"))
        == "it has at least 101 bytes, and the limit is 100"
    )


def test_a_huge_file_is_not_read_to_find_out_that_it_is_too_large(folder: Path) -> None:
    (folder / "huge").touch()
    os.truncate(folder / "huge", 1 << 40)
    refused = "it has 1,099,511,627,776 bytes, and the limit is 524,288"
    assert str(Selector(folder).read("huge")) == str(Selector(folder).explain("huge")) == refused


def test_a_file_that_others_may_not_read_is_said_to_be(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can stop being root")
    write(folder, **{"closed": "x", "shut/inside": "x"})
    (folder / "closed").chmod(0)
    (folder / "shut").chmod(0)
    for above in (folder, folder.parent, folder.parent.parent, folder.parent.parent.parent):
        above.chmod(0o755)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.environ["HOME"] = "/nonexistent"
            os.setgid(65534)
            os.setuid(65534)
            selector = Selector(folder)
            assert selector.listing().files == ["closed"]
            assert str(selector.read("closed")) == "it cannot be read: Permission denied"
            assert str(selector.explain("shut/inside")) == "it cannot be read: Permission denied"
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_nul_byte_in_the_beginning_makes_a_file_binary_as_in_git(folder: Path) -> None:
    write(folder, binary=b"a" * 7999 + b"\0", text=b"a" * 8000 + b"\0", empty=b"", latin=b"caf\xe9")
    selector = Selector(folder)
    assert str(selector.read("binary")) == "it is binary: there is a NUL byte among its first 8,000"
    assert [selector.read(name) for name in ("text", "empty", "latin")] == [b"a" * 8000 + b"\0", b"", b"caf\xe9"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "./a", "a/", "a\0b", "."])
def test_paths_that_name_nothing_in_the_workspace_are_refused(folder: Path, path: str) -> None:
    write(folder, a="", b="")
    selector = Selector(folder)
    assert selector.taken([path]) == set()
    assert selector.read(path) == selector.explain(path) == Exclusion("it is no path in the workspace")


def test_names_with_newlines_and_without_utf8_are_names_like_others(repository: Path) -> None:
    hostile = [
        "a\nb",
        " lead",
        "tab\t",
        '"quoted"',
        ":(glob)**",
        "H 100644 0\tx",
        "\udcff\udcfe",
        "-z",
        "ünï",
        "*",
        "[a]",
    ]
    for name in hostile:
        (repository / name).write_text("x")
    write(repository, **{".gitignore": "ünï\n\\*\n:(glob)[*][*]\n"})
    selector = agrees(repository)
    left_out = {"ünï", "*", ":(glob)**"}
    assert set(selector.listing().files) == {*hostile, ".gitignore"} - left_out
    assert all("git ignores it" in str(selector.explain(name)) for name in left_out)
    assert all(selector.read(name) == b"x" for name in hostile)


@pytest.mark.parametrize("make", [lambda place: None, lambda place: place.write_text("x")])
def test_what_is_no_folder_is_no_workspace(tmp_path: Path, make: object) -> None:
    make(tmp_path / "it")  # type: ignore[operator]
    with pytest.raises(WorkspaceError, match="it' cannot be read"):
        Selector(tmp_path / "it")


def test_gits_own_folder_is_no_workspace(repository: Path) -> None:
    with pytest.raises(WorkspaceError, match="git's own folder"):
        Selector(repository / ".git/hooks")


def test_a_workspace_that_is_gone_is_a_clear_error(folder: Path) -> None:
    selector = Selector(folder)
    folder.rmdir()
    with pytest.raises(WorkspaceError, match="cannot be read"):
        selector.listing()


def test_a_damaged_index_is_gits_error_in_its_own_words(repository: Path) -> None:
    write(repository, a="", **{".git/index": "DIRC nonsense"})
    with pytest.raises(WorkspaceError, match="index file smaller than expected"):
        Selector(repository).listing()


def test_nothing_that_a_repository_names_is_run(repository: Path, tmp_path: Path) -> None:
    write(tmp_path, program=f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "program").chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "filter.x.clean", "core.sshCommand", "alias.ls-files"):
        git(repository, "config", name, str(tmp_path / "program"))
    write(repository, a="", **{".gitattributes": "* filter=x\n"})
    selector = Selector(repository)
    selector.listing()
    selector.taken(["a"])
    selector.explain("a")
    selector.rule_files()
    assert not (tmp_path / "ran").exists()
