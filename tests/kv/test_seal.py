"""A stored chunk is read as exactly what was stored under its name, or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.kv.seal import KEY_BYTES, OVERHEAD_BYTES, Sealer, SealError, box_key

KEY = bytes(range(KEY_BYTES))
SEALER = Sealer(KEY, "model a")


@given(st.binary(max_size=5000), st.text(max_size=20), st.binary(max_size=50))
def test_what_was_sealed_is_had_back(plain: bytes, tenant: str, name: bytes) -> None:
    sealed = SEALER.seal(plain, tenant, name)
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert SEALER.unseal(sealed + b"padding", len(plain), tenant, name) == plain


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_flipped_bit_is_found(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(plain, "t", b"n"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealError):
        SEALER.unseal(sealed, len(plain), "t", b"n")


@given(st.binary(min_size=1, max_size=300), st.data())
def test_what_is_cut_is_found(plain: bytes, data: st.DataObject) -> None:
    sealed = SEALER.seal(plain, "t", b"n")
    with pytest.raises(SealError):
        SEALER.unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))], len(plain), "t", b"n")


@pytest.mark.parametrize(
    ("sealer", "tenant", "name"),
    [
        (Sealer(KEY, "model b"), "t", b"n"),
        (Sealer(bytes(KEY_BYTES), "model a"), "t", b"n"),
        (SEALER, "u", b"n"),
        (SEALER, "t", b"another"),
        (Sealer(KEY, "model an"), "t", b""),
    ],
)
def test_another_models_boxs_tenants_or_chunks_is_not_opened(sealer: Sealer, tenant: str, name: bytes) -> None:
    sealed = SEALER.seal(b"kv" * 100, "t", b"n")
    with pytest.raises(SealError, match="not the one of this name"):
        sealer.unseal(sealed, 200, tenant, name)


def test_the_same_chunk_is_never_sealed_alike() -> None:
    assert SEALER.seal(b"kv", "t", b"n") != SEALER.seal(b"kv", "t", b"n")


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "key"
    (tmp_path / "key.new").write_bytes(b"half of a k")
    key = box_key(place)
    assert len(key) == KEY_BYTES
    assert box_key(place) == key
    assert place.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_what_is_no_key_is_said(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(SealError, match="5 bytes, and is no key"):
        box_key(tmp_path / "key")
    with pytest.raises(SealError, match="cannot be had"):
        box_key(tmp_path / "missing" / "key")
