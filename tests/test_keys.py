"""The store of keys, and the command that changes it."""

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infbox import keys as keys_module
from infbox.cli import main
from infbox.errors import KeyStoreError
from infbox.keys import KeyStore, digest, find, read_keys


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_random_recognisable_and_stored_as_a_digest_only(store: KeyStore):
    text, other = store.add("alice"), store.add("bob", "team-b")
    assert text != other
    assert re.fullmatch(r"infbox-[A-Za-z0-9_-]{43}", text)
    assert text not in store.path.read_text()
    alice, bob = read_keys(store.path)
    assert (alice.name, alice.tenant, alice.sha256) == ("alice", "alice", digest(text))
    assert (bob.name, bob.tenant) == ("bob", "team-b")
    assert find((alice, bob), other.encode()) == bob
    assert find((alice, bob), b"infbox-other") is None


def test_a_new_store_is_0640_and_a_change_keeps_owner_group_and_mode(store: KeyStore):
    store.add("alice")
    assert mode(store.path) == 0o640
    store.path.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(store.path, 12345, 23456)
    before = store.path.stat()
    store.add("bob")
    after = store.path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_ino != before.st_ino
    assert [path.name for path in store.path.parent.iterdir()] == ["keys.json"]


def test_a_store_behind_a_symbolic_link_stays_behind_it(tmp_path: Path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to("real/keys.json")
    KeyStore(link).add("alice")
    assert link.is_symlink()
    assert len(read_keys(link)) == 1


def test_a_write_that_fails_leaves_the_store_as_it_was(store: KeyStore, monkeypatch):
    store.add("alice")
    before = store.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyStoreError, match="No space left"):
        store.add("bob")
    assert store.path.read_bytes() == before
    assert len(list(store.path.parent.iterdir())) == 1


def test_changes_at_the_same_time_are_all_kept(store: KeyStore):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: KeyStore(store.path).add(f"k{number}"), range(24)))
    assert len(read_keys(store.path)) == 24


def test_ensure_writes_a_private_file_once(store: KeyStore, tmp_path: Path):
    out = tmp_path / "key"
    before = os.umask(0)
    try:
        assert store.ensure("smoke", out) is True
    finally:
        os.umask(before)
    assert mode(out) == 0o600
    assert find(read_keys(store.path), out.read_text().strip().encode()).name == "smoke"
    kept = (out.read_bytes(), store.path.read_bytes())
    assert store.ensure("smoke", out) is False
    assert (out.read_bytes(), store.path.read_bytes()) == kept
    assert {path.name for path in tmp_path.iterdir()} == {"key", "keys.json"}


def test_ensure_mends_what_a_kill_between_file_and_store_left(store: KeyStore, tmp_path: Path, monkeypatch):
    out = tmp_path / "key"

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "_replace", kill)
        with pytest.raises(Killed):
            store.ensure("smoke", out)
    text = out.read_text()
    assert not store.path.exists()
    assert store.ensure("smoke", out) is True
    assert out.read_text() == text
    assert find(read_keys(store.path), text.strip().encode()).name == "smoke"


def test_ensure_takes_no_file_that_holds_something_else_or_anothers_key(store: KeyStore, tmp_path: Path):
    out = tmp_path / "key"
    out.write_text("something precious\n")
    with pytest.raises(KeyStoreError, match="does not hold a key"):
        store.ensure("smoke", out)
    assert out.read_text() == "something precious\n"
    store.ensure("smoke", tmp_path / "smoke")
    with pytest.raises(KeyStoreError, match="holds the key named 'smoke'"):
        store.ensure("other", tmp_path / "smoke")
    with pytest.raises(KeyStoreError, match="cannot be written"):
        store.ensure("third", tmp_path / "no" / "folder")
    assert [key.name for key in read_keys(store.path)] == ["smoke"]


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "é", "a" * 65, "a\n"])
def test_a_name_or_tenant_of_another_shape_is_refused(store: KeyStore, name: str, tmp_path: Path):
    for call in (
        lambda: store.add(name),
        lambda: store.add("fine", name),
        lambda: store.ensure(name, tmp_path / "out"),
    ):
        with pytest.raises(KeyStoreError, match="cannot be a key's"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"[]", 'not an object with a list "keys"'),
        (b'{"keys": 1}', 'not an object with a list "keys"'),
        (b"[" * 100_000, "is not"),
        (b'{"keys": [1]}', "entry 1 of the key store"),
        (b'{"keys": [{"name": "a", "tenant": "", "sha256": "0", "created": "x"}]}', "no valid 'tenant'"),
        (b'{"keys": [{"name": "a", "tenant": "a", "sha256": "0", "created": "x"}]}', "no valid 'sha256'"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_damaged_store_is_named_and_never_overwritten(store: KeyStore, content: bytes, said: str, capsys):
    store.path.write_bytes(content)
    assert main(["key", "list", "--file", str(store.path)]) == 1
    assert main(["key", "add", "alice", "--file", str(store.path)]) == 1
    err = capsys.readouterr().err
    assert err.count(said) == 2
    assert err.count("hint: ") == 2
    assert store.path.read_bytes() == content


def test_a_name_that_is_there_twice_is_refused(store: KeyStore):
    store.add("alice")
    entries = json.loads(store.path.read_text())["keys"]
    store.path.write_text(json.dumps({"keys": entries * 2}))
    with pytest.raises(KeyStoreError, match="'alice' twice"):
        read_keys(store.path)


def test_a_store_that_may_not_be_read_says_who_may(store: KeyStore):
    store.add("alice")
    store.path.chmod(0)
    ourselves = os.geteuid()
    if ourselves == 0:
        os.seteuid(65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(KeyStoreError, match="may not be read"):
            read_keys(store.path)
    finally:
        os.seteuid(ourselves)


def test_the_command_adds_lists_and_removes(store: KeyStore, capsys):
    file = ["--file", str(store.path)]
    assert main(["key", "add", "alice", "--tenant", "team", *file]) == 0
    text = capsys.readouterr().out.strip()
    assert find(read_keys(store.path), text.encode()).tenant == "team"
    assert main(["key", "list", *file]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "TENANT", "CREATED"]
    assert row.split()[:2] == ["alice", "team"]
    assert main(["key", "list", "--json", *file]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown.keys() == {"name", "tenant", "created"}
    assert main(["key", "add", "alice", *file]) == 1
    assert "infbox key remove alice" in capsys.readouterr().err
    assert main(["key", "remove", "alice", *file]) == 0
    assert read_keys(store.path) == ()
    assert main(["key", "remove", "alice", *file]) == 1
    assert "no key is named 'alice'" in capsys.readouterr().err


def test_the_command_ensures_and_notes_a_lost_file(store: KeyStore, tmp_path: Path, capsys):
    command = ["key", "ensure", "smoke", "--out", str(tmp_path / "key"), "--file", str(store.path)]
    assert [main(command), capsys.readouterr().out] == [0, "created\n"]
    assert [main(command), capsys.readouterr()] == [0, ("unchanged\n", "")]
    (tmp_path / "key").unlink()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == "unchanged\n"
    assert "infbox key remove smoke" in err


def test_a_missing_store_or_folder_says_what_to_type(tmp_path: Path, capsys):
    assert main(["key", "list", "--file", str(tmp_path / "keys.json")]) == 1
    assert "infbox key add NAME" in capsys.readouterr().err
    assert main(["key", "add", "a", "--file", str(tmp_path / "no" / "keys.json")]) == 1
    assert f"mkdir -p {tmp_path / 'no'}" in capsys.readouterr().err
