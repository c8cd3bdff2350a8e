"""A pack on disk is the pack, to the byte, or nothing."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infbox.pack.layout import Pack, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import Rules, build
from infbox.pack.store import StoreError, read_pack, write_pack
from infbox.pack.tokens import PackTokenizer

ODD = "n\udce9w\nline.py"


@pytest.fixture
def pack(qwen: PackTokenizer) -> Pack:
    files = [("a.py", b"def save():\n    pass\n"), (ODD, b"\xff\x00 caf\xc3\xa9"), ("uv.lock", b"hash = 1\n")]
    packer = Packer(qwen, build(Writer(qwen), "repo", files))
    packer.save_all({"a.py": b"def save():\n    return\n", ODD: None, "b.py": b"", "c.py": b"x = 1"})
    packer.seal()
    packer.save_all({"c.py": None, "d.py": b"x = 1"})
    return packer.seal()


def _same(one: Pack, other: Pack) -> bool:
    return (
        (one.version, one.digest, one.base_digest, one.base_tokens, one.fingerprint)
        == (other.version, other.digest, other.base_digest, other.base_tokens, other.fingerprint)
        and one.workspace() == other.workspace()
        and one.omitted == other.omitted
    )


def test_a_pack_that_was_written_is_read_back(tmp_path: Path, pack: Pack, qwen: PackTokenizer) -> None:
    write_pack(tmp_path / "pack", pack)
    read = read_pack(tmp_path / "pack", qwen)
    assert read is not None
    assert _same(read, pack)
    assert os.listdir(tmp_path) == ["pack"]


def test_a_pack_that_was_read_back_goes_on_as_the_written_one(tmp_path: Path, pack: Pack, qwen: PackTokenizer) -> None:
    write_pack(tmp_path / "pack", pack)
    read = read_pack(tmp_path / "pack", qwen)
    assert read is not None
    packers = [Packer(qwen, pack), Packer(qwen, read)]
    for packer in packers:
        packer.save("a.py", b"again\n")
        packer.seal()
    assert _same(packers[0].pack, packers[1].pack)
    assert _same(packers[0].rebase(), packers[1].rebase())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_makes_it_no_pack(tmp_path: Path, pack: Pack, qwen: PackTokenizer, at: float, bit: int) -> None:
    path = tmp_path / "pack"
    write_pack(path, pack)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert read_pack(path, qwen) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.floats(0, 1, exclude_max=True))
def test_a_pack_cut_anywhere_is_no_pack(tmp_path: Path, pack: Pack, qwen: PackTokenizer, at: float) -> None:
    path = tmp_path / "pack"
    write_pack(path, pack)
    os.truncate(path, int(at * path.stat().st_size))
    assert read_pack(path, qwen) is None


def test_another_tokenizer_s_pack_is_none(tmp_path: Path, pack: Pack, plain: PackTokenizer) -> None:
    write_pack(tmp_path / "pack", pack)
    assert read_pack(tmp_path / "pack", plain) is None


@pytest.mark.parametrize("content", [b"", b"infboxpk", b"PK\3\4 something else", b"\0" * 100_000])
def test_a_foreign_file_is_no_pack_and_the_log_says_why(
    tmp_path: Path, qwen: PackTokenizer, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pack").write_bytes(content)
    assert read_pack(tmp_path / "pack", qwen) is None
    assert str(tmp_path / "pack") in caplog.text


def test_what_is_no_file_is_no_pack(tmp_path: Path, qwen: PackTokenizer) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "fifo", "loop", "."):
        assert read_pack(tmp_path / name, qwen) is None


def test_a_write_that_fails_leaves_the_old_pack(tmp_path: Path, pack: Pack, qwen: PackTokenizer) -> None:
    path = tmp_path / "pack"
    write_pack(path, pack)
    # In the new file's place is a folder, as a full or read-only disk would refuse it.
    (tmp_path / "pack.new").mkdir()
    newer = Packer(qwen, pack, Rules()).rebase(whole=True)
    with pytest.raises(StoreError, match="cannot be written"):
        write_pack(path, newer)
    read = read_pack(path, qwen)
    assert read is not None
    assert _same(read, pack)


def test_a_half_written_new_file_is_not_looked_at(tmp_path: Path, pack: Pack, qwen: PackTokenizer) -> None:
    path = tmp_path / "pack"
    write_pack(path, pack)
    (tmp_path / "pack.new").write_bytes(path.read_bytes()[:50])
    read = read_pack(path, qwen)
    assert read is not None
    write_pack(path, read)
    assert os.listdir(tmp_path) == ["pack"]
