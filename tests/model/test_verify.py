"""What makes a folder a model: a good one, and one test for each way to be none."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from infbox.errors import ModelError
from infbox.model.verify import INDEX, check_model
from infbox.model.weights import Planned, read_header, to_bf16, write_bf16

SHARD = "model-1.safetensors"


def cut(folder: Path, keep: Callable[[int], int]) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[: keep(len(content))])


def header(folder: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Rewrite a shard's header."""
    content = (folder / SHARD).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    change(entries)
    encoded = json.dumps(entries).encode()
    (folder / SHARD).write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[end:])


def index(folder: Path, **names: str) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map | names}))


def test_a_whole_model_passes(model: Path) -> None:
    check_model(model)


def test_a_model_of_one_file_needs_no_index(model: Path) -> None:
    (model / INDEX).unlink()
    (model / "model-2.safetensors").unlink()
    check_model(model)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: [path.unlink() for path in f.iterdir()], "is empty"),
        (lambda f: (f / "config.json").unlink(), "has no config.json$"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
        (lambda f: (f / "config.json").write_text("{}"), "names neither `architectures` nor `model_type`"),
        (lambda f: (f / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json describes no tokenizer"),
        (lambda f: [path.unlink() for path in f.glob("*.safetensors")], r"has no \*\.safetensors$"),
        (lambda f: cut(f, lambda size: 0), "has 0 bytes"),
        (lambda f: cut(f, lambda size: 5), "has 5 bytes"),
        (lambda f: cut(f, lambda size: 50), "is cut off: its header needs"),
        (lambda f: cut(f, lambda size: size // 2), "is cut off: its tensors end at byte"),
        (lambda f: cut(f, lambda size: size - 1), "is cut off: its tensors end at byte"),
        (lambda f: (f / SHARD).write_bytes(b"\xff" * 64), "claims a header of 18,446,744,073,709,551,615 bytes"),
        (lambda f: (f / SHARD).write_bytes(b"<html><head></head><body>sign in</body></html>"), "claims a header"),
        (lambda f: (f / SHARD).write_bytes((4).to_bytes(8, "little") + b"nope"), "a header that is not JSON"),
        (lambda f: (f / SHARD).write_bytes((2).to_bytes(8, "little") + b"[]"), "a header that is not a JSON object"),
        (lambda f: (f / SHARD).write_bytes((2).to_bytes(8, "little") + b"{}"), "holds no tensors"),
        (lambda f: header(f, lambda h: h["b"].update(data_offsets=[0, 1 << 60])), "not what F16"),
        (lambda f: header(f, lambda h: h["b"].update(data_offsets=[-6, 0])), "a malformed entry for tensor 'b'"),
        (lambda f: header(f, lambda h: h["b"].update(data_offsets="0")), "a malformed entry for tensor 'b'"),
        (lambda f: header(f, lambda h: h["b"].update(shape=[True])), "a malformed entry for tensor 'b'"),
        (lambda f: header(f, lambda h: h["b"].update(data_offsets=[0, 6])), "overlap or leave a gap"),
        (lambda f: header(f, lambda h: h.update(b=7)), "a malformed entry for tensor 'b'"),  # type: ignore[call-overload]
        (lambda f: (f / "model-2.safetensors").unlink(), r"names 'model-2\.safetensors', which is not in the folder"),
        (lambda f: index(f, d=SHARD), "lacks the tensor 'd'"),
        (lambda f: index(f, d="../../etc/passwd"), r"names '\.\./\.\./etc/passwd', which is not in the folder"),
        (lambda f: index(f, d="/etc/passwd"), "names '/etc/passwd', which is not in the folder"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"a": ["x"]}}'), "which is not in the folder"),
        (lambda f: (f / INDEX).write_text("{}"), "has no `weight_map`"),
    ],
)
def test_a_spoiled_model_is_told_by_the_file_at_fault(
    model: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(model)
    with pytest.raises(ModelError) as caught:
        check_model(model)
    assert caught.value.hint
    assert __import__("re").search(message, caught.value.message), caught.value.message


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["model.gguf"], "the engine loads safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "base_model_name_or_path"),
        (["config.json", "pytorch_model.bin"], "pickles run code"),
    ],
)
def test_what_looks_like_a_model_and_is_none_gets_its_own_hint(tmp_path: Path, names: list[str], hint: str) -> None:
    for name in names:
        (tmp_path / name).write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError) as caught:
        check_model(tmp_path)
    assert hint in caught.value.hint


def test_a_file_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is not a folder"):
        check_model(tmp_path / "file")
    with pytest.raises(ModelError, match="does not exist"):
        check_model(tmp_path / "none")


def test_loops_of_symlinks_end(model: Path, tmp_path: Path) -> None:
    (model / "loop.safetensors").symlink_to("loop.safetensors")
    (model / "around").symlink_to(model)
    check_model(model)  # what a loop is not is a file
    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(ModelError, match="itself"):
        check_model(tmp_path / "itself")


def test_the_hubs_cache_layout_of_symlinks_is_a_model(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    check_model(snapshot)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused")
def test_an_unreadable_folder_says_how_to_open_it(model: Path) -> None:
    model.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(ModelError, match="cannot be read by this user") as caught:
            check_model(model)
    finally:
        os.seteuid(0)
    assert "chmod" in caught.value.hint


def test_written_weights_read_back_in_the_library(tmp_path: Path) -> None:
    from safetensors import safe_open

    values = {"x": np.float32([[1.0, -2.5], [3.140625, 65280.0]]), "y": np.float32([0.5])}
    planned = [Planned(name, value.shape) for name, value in values.items()]
    write_bf16(tmp_path / "w.safetensors", planned, values.values())
    assert read_header(tmp_path / "w.safetensors") == {"x": ("BF16", (2, 2)), "y": ("BF16", (1,))}
    with safe_open(tmp_path / "w.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {"x", "y"}
        assert file.get_slice("x").get_dtype() == "BF16"


def test_bfloat16_rounds_to_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0x80000000], np.uint32)
    expected = [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x7F80, 0x7F80, 0x8000]
    assert to_bf16(bits.view(np.float32)).tolist() == expected
    assert np.isnan((to_bf16(np.float32([np.nan])).astype(np.uint32) << 16).view(np.float32)).all()


def test_the_librarys_own_files_pass(tmp_path: Path) -> None:
    for kind in (np.float32, np.float16, np.int64, np.uint8, np.bool_):
        (tmp_path / "w.safetensors").write_bytes(save({"x": np.zeros((3, 5), kind), "empty": np.zeros((0,), kind)}))
        assert set(read_header(tmp_path / "w.safetensors")) == {"x", "empty"}
