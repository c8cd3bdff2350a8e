"""`hf:` models, fetched by the hub's real client from the small hub of fake_hub.py."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub

from infbox.errors import ModelError
from infbox.model import fetch as fetching
from infbox.model import hub as hubs
from infbox.model import hub_client, manifest
from infbox.model.settings import ModelSettings

Lines = list[str]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other at once, in the client too."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    real = hubs.fetch_hub
    monkeypatch.setattr(hubs, "fetch_hub", lambda *given: real(*given, sleep=lambda seconds: None))


def fetch(settings: ModelSettings) -> Lines:
    """Run a fetch; returns what it said."""
    said: Lines = []
    fetching.fetch(settings, {}, said.append)
    return said


def staged(settings: ModelSettings) -> list[Path]:
    return sorted(settings.root.glob(".staging-*"))


def test_the_folder_holds_what_an_engine_needs_and_nothing_else(
    settings: ModelSettings, files: dict[str, bytes], wanted: set[str]
) -> None:
    fetch(settings)
    got = {path.name: path.read_bytes() for path in settings.folder.iterdir()}
    got.pop(manifest.MANIFEST)
    assert got == {name: files[name] for name in wanted}
    assert staged(settings) == []


def test_another_user_can_read_all_of_it(settings: ModelSettings) -> None:
    before = os.umask(0o077)
    try:
        fetch(settings)
    finally:
        os.umask(before)
    assert settings.folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in settings.folder.iterdir()} == {0o644}


def test_a_second_run_asks_nobody(settings: ModelSettings, hub: FakeHub) -> None:
    fetch(settings)
    before = hub.requests
    said = fetch(settings)
    assert hub.requests == before
    assert len(said) == 1
    assert "already" in said[0]


def test_the_first_commit_is_kept_when_the_branch_moves_on(settings: ModelSettings, hub: FakeHub) -> None:
    fetch(settings)
    hub.commit = "b" * 40
    (settings.folder / "chat_template.jinja").unlink()
    said = fetch(settings)
    held = manifest.read_manifest(settings.folder)
    assert held is not None
    assert held.revision == COMMIT
    assert "mending" in said[0]


def test_mending_fetches_only_what_is_missing(settings: ModelSettings, hub: FakeHub) -> None:
    fetch(settings)
    (settings.folder / "model-2.safetensors").write_bytes(b"short")
    hub.served.clear()
    fetch(settings)
    assert [name for name, _ in hub.served] == ["model-2.safetensors"]


def test_a_new_source_replaces_the_folder(settings: ModelSettings, hub: FakeHub) -> None:
    fetch(settings)
    hub.revisions.add("v2")
    hub.files["chat_template.jinja"] = b"new"
    fetch(dataclasses.replace(settings, source="hf:org/tiny@v2"))
    assert (settings.folder / "chat_template.jinja").read_bytes() == b"new"
    assert staged(settings) == []


def test_a_failed_change_leaves_the_old_model_in_place(settings: ModelSettings, hub: FakeHub) -> None:
    fetch(settings)
    hub.revisions.add("v2")
    hub.files["config.json"] = b"[]"
    with pytest.raises(ModelError, match=r"config\.json is not a JSON object"):
        fetch(dataclasses.replace(settings, source="hf:org/tiny@v2"))
    assert b"architectures" in (settings.folder / "config.json").read_bytes()


def test_a_cut_connection_goes_on_where_it_was_cut(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # bytes; what a cut can lose
    half = len(hub.files["model-1.safetensors"]) // 2
    hub.cuts["model-1.safetensors"] = 1
    fetch(settings)
    ranges = [asked for name, asked in hub.served if name == "model-1.safetensors"]
    assert ranges == ["", f"bytes={half // 1000 * 1000}-"]


def test_a_server_without_ranges_still_serves(settings: ModelSettings, hub: FakeHub) -> None:
    hub.cuts["model-1.safetensors"] = 2
    hub.ranges = False
    fetch(settings)
    assert (settings.folder / "model-1.safetensors").read_bytes() == hub.files["model-1.safetensors"]


def test_a_killed_run_goes_on_in_the_middle_of_a_file(settings: ModelSettings, hub: FakeHub) -> None:
    hub.block = threading.Event()
    program = "import sys; from infbox.cli import main; sys.exit(main(['model', 'fetch']))"
    environment = os.environ | {
        "MODEL_SOURCE": settings.source,
        "MODEL_NAME": settings.name,
        "MODEL_ROOT": str(settings.root),
        "MODEL_HUB_ENDPOINT": settings.hub_endpoint,
    }
    # A chunk as small as half a file here; the client's own is 10 MB
    small = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1000\n"
    run = subprocess.Popen([sys.executable, "-c", small + program], env=environment, stdout=subprocess.DEVNULL)
    half = len(hub.files["model-1.safetensors"]) // 2
    part = hubs.PARTS + "/model-1.safetensors"
    deadline = time.monotonic() + 15
    while not any(
        (folder / part).exists() and (folder / part).stat().st_size > half // 2 for folder in staged(settings)
    ):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    hub.block.set()
    assert not settings.folder.exists()
    hub.served.clear()
    fetch(settings)
    ((_, asked),) = [one for one in hub.served if one[0] == "model-1.safetensors"]
    assert int(asked.removeprefix("bytes=").rstrip("-")) > half // 2
    assert (settings.folder / "model-1.safetensors").read_bytes() == hub.files["model-1.safetensors"]


def test_a_hub_that_is_down_for_a_moment_is_waited_for(settings: ModelSettings, hub: FakeHub) -> None:
    hub.unavailable = 2
    said = fetch(settings)
    assert sum("answer 503; trying again" in line for line in said) == 2


def test_a_hub_that_stays_down_is_given_up_with_a_way_out(settings: ModelSettings, hub: FakeHub) -> None:
    hub.unavailable = 99
    with pytest.raises(ModelError, match="answer 503, 3 times") as caught:
        fetch(settings)
    assert "model_hub_endpoint" in caught.value.hint
    assert "folder:" in caught.value.hint


def test_without_a_network_the_hint_names_a_mirror_and_a_folder(settings: ModelSettings, hub: FakeHub) -> None:
    hub.close()
    with pytest.raises(ModelError, match="ConnectError") as caught:
        fetch(settings)
    assert "model_source: folder:" in caught.value.hint


def test_content_that_is_not_the_hubs_is_fetched_again(settings: ModelSettings, hub: FakeHub) -> None:
    hub.altered["model-1.safetensors"] = 1
    said = fetch(settings)
    assert any("sha256" in line and "fetching it again" in line for line in said)
    assert (settings.folder / "model-1.safetensors").read_bytes() == hub.files["model-1.safetensors"]


@pytest.mark.parametrize("name", ["model-1.safetensors", "tokenizer.json"])
def test_content_that_is_never_the_hubs_is_refused(settings: ModelSettings, hub: FakeHub, name: str) -> None:
    hub.altered[name] = 99
    with pytest.raises(ModelError, match=rf"{name} of org/tiny has sha(256|1) "):
        fetch(settings)
    assert not settings.folder.exists()


def test_a_gated_model_without_a_token_names_the_variable_and_the_page(settings: ModelSettings, hub: FakeHub) -> None:
    hub.gated, hub.token = True, "hf_secret"
    with pytest.raises(ModelError, match="org/tiny is gated and there is no token") as caught:
        fetch(settings)
    assert "model_hub_token" in caught.value.hint
    assert f"{hub.endpoint}/org/tiny" in caught.value.hint


def test_the_token_goes_to_the_hub_and_nowhere_else(
    settings: ModelSettings, hub: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.gated, hub.token = True, "hf_secret"
    (tmp_path / "hub-token").write_text("hf_secret\n")
    said = fetch(dataclasses.replace(settings, token_file=tmp_path / "hub-token"))
    assert hub.seen_tokens["hub"] == {"Bearer hf_secret"}
    assert hub.seen_tokens["cdn"] == {""}
    written = "".join(capfd.readouterr()) + "".join(said)
    written += "".join(path.read_text(errors="replace") for path in settings.root.rglob("*") if path.is_file())
    assert "hf_secret" not in written


def test_a_token_of_whoever_runs_it_is_not_sent(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_personal")
    fetch(settings)
    assert hub.seen_tokens == {"hub": {""}, "cdn": {""}}


def test_a_wrong_token_is_told_as_one(settings: ModelSettings, hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    (tmp_path / "hub-token").write_text("hf_other")
    with pytest.raises(ModelError, match="does not know the token") as caught:
        fetch(dataclasses.replace(settings, token_file=tmp_path / "hub-token"))
    assert "hf_other" not in str(caught.value)


def test_a_misspelled_model_and_a_missing_revision_are_told_apart(with_source: Callable[[str], ModelSettings]) -> None:
    with pytest.raises(ModelError, match="there is no model 'org/tinny'"):
        fetch(with_source("hf:org/tinny"))
    with pytest.raises(ModelError, match="no such revision"):
        fetch(with_source("hf:org/tiny@v9"))


def test_a_page_in_the_hubs_place_is_recognised(settings: ModelSettings, hub: FakeHub) -> None:
    hub.html = True
    with pytest.raises(ModelError, match="does not answer as a Hugging Face hub does"):
        fetch(settings)


@pytest.mark.parametrize(
    ("name", "word"), [("model.gguf", "GGUF"), ("adapter_config.json", "LoRA"), ("pytorch_model.bin", "pickles")]
)
def test_a_repository_without_safetensors_is_refused_before_a_byte(
    settings: ModelSettings, hub: FakeHub, name: str, word: str
) -> None:
    hub.files = {name: b"x", "config.json": b"{}"}
    with pytest.raises(ModelError, match=r"no \*\.safetensors") as caught:
        fetch(settings)
    assert word in caught.value.hint
    assert hub.served == []


@pytest.mark.parametrize("name", ["../../outside.json", "/etc/outside.json", "a/../../x.safetensors"])
def test_a_name_that_leaves_the_folder_is_refused(settings: ModelSettings, hub: FakeHub, name: str) -> None:
    hub.files[name] = b"{}"
    with pytest.raises(ModelError, match="would leave its folder"):
        fetch(settings)


def test_a_disk_that_is_too_small_is_told_before_a_byte(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": hubs.RESERVE_BYTES + 1000})
    monkeypatch.setattr(hubs.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"needs 0\.1 GB more .* has 0\.1 GB free"):
        fetch(settings)
    assert hub.served == []


def test_a_disk_that_fills_up_is_told_and_the_next_run_goes_on(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = hub_client._Sink.write

    def full(sink: hub_client._Sink, chunk: bytes) -> int:
        if len(chunk) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(sink, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(hub_client._Sink, "write", full)
        with pytest.raises(ModelError, match="filled up"):
            fetch(settings)
    assert not settings.folder.exists()
    fetch(settings)
    assert (settings.folder / "model-1.safetensors").read_bytes() == hub.files["model-1.safetensors"]


def test_files_too_large_for_plain_http_go_through_the_hubs_own_download(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "LARGEST_BY_HTTP", 50_000)
    fetch(settings)
    assert (settings.folder / "model-1.safetensors").read_bytes() == hub.files["model-1.safetensors"]


def test_progress_is_told_in_whole_lines(
    settings: ModelSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hubs, "PROGRESS_SECONDS", 0.05)
    hub.block = threading.Event()
    threading.Timer(0.4, hub.block.set).start()
    said = fetch(settings)
    assert any(line.startswith("fetched 0.0 of 0.0 GB (") and line.endswith("MB/s") for line in said)
    assert not any("\r" in line or "\n" in line for line in said)
    assert capfd.readouterr() == ("", "")
