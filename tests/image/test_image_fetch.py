"""An image comes whole or not at all, and what services run in changes only with one that is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_podman import DIGEST, ID, IMAGE, FakePodman
from test_image_archive import write

from infbox.errors import ImageError
from infbox.image.fetch import Records, Settings, fetch, mark_good, roll_back
from infbox.image.reference import Reference

NAME = "docker.io/vllm/vllm-openai"
WANTED = Settings(Reference(NAME, DIGEST), None)
Sleep = Callable[[float], None]


def test_an_image_is_pulled_once_and_then_found(podman: FakePodman, records: Records, sleep: Sleep) -> None:
    for _ in range(2):
        image = fetch(WANTED, podman, records, sleep)
    assert image.id == ID
    assert podman.asked("pull") == [f"pull {NAME}@{DIGEST}"]
    assert records.read("current") == f"{NAME}@{DIGEST}"


@pytest.mark.parametrize("digest", [DIGEST, f"sha256:{ID}", f"sha256:{'c' * 64}"])
def test_one_that_is_there_is_known_by_each_of_its_digests(
    podman: FakePodman, records: Records, sleep: Sleep, digest: str
) -> None:
    podman.holds([{"Id": "0" * 64}, IMAGE])
    assert fetch(Settings(Reference(NAME, digest), None), podman, records, sleep).id == ID
    assert podman.asked("pull") == []


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(
    podman: FakePodman, records: Records, sleep: Sleep, naps: list[float]
) -> None:
    podman.fails("Error: i/o timeout", "Error: connection reset by peer")
    fetch(WANTED, podman, records, sleep)
    assert naps == [5.0, 15.0]
    assert any("timeout; again in 5 s" in line for line in podman.said)
    podman.holds([])
    podman.fails("Error: reading manifest: manifest unknown")
    with pytest.raises(ImageError, match="manifest unknown"):
        fetch(WANTED, podman, records, sleep)
    assert naps == [5.0, 15.0]


def test_a_registry_that_is_away_ends_after_five_tries_and_leaves_what_runs(
    podman: FakePodman, records: Records, sleep: Sleep, naps: list[float]
) -> None:
    records.write("current", f"{NAME}@sha256:{'1' * 64}")
    podman.fails(*["Error: no route to host"] * 9)
    with pytest.raises(ImageError, match="no route to host") as caught:
        fetch(WANTED, podman, records, sleep)
    assert len(naps) == 4
    assert "`podman login`" in caught.value.hint
    assert "vllm_image_archive" in caught.value.hint
    assert records.read("current") == f"{NAME}@sha256:{'1' * 64}"


def test_another_image_than_the_digests_is_refused(podman: FakePodman, records: Records, sleep: Sleep) -> None:
    podman.would_fetch([{"Id": "d" * 64, "Digest": f"sha256:{'e' * 64}"}])
    with pytest.raises(ImageError, match="no image of that digest"):
        fetch(WANTED, podman, records, sleep)
    assert records.read("current") == ""


def test_an_archive_of_another_image_is_not_even_loaded(
    podman: FakePodman, records: Records, sleep: Sleep, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tar", {"manifest.json": b'[{"Config": "c"}]', "c": b"{}"})
    with pytest.raises(ImageError, match="holds sha256:44136fa3") as caught:
        fetch(Settings(Reference(NAME, DIGEST), path), podman, records, sleep)
    assert f"set `vllm_image` to {NAME}@sha256:44136fa3" in caught.value.hint
    assert podman.asked("load") == []


def test_an_archive_is_loaded_and_nothing_pulled(
    podman: FakePodman, records: Records, sleep: Sleep, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tar", {"manifest.json": b'[{"Config": "c"}]', "c": b"{}"})
    digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    podman.would_fetch([{"Id": digest.removeprefix("sha256:")}])
    fetch(Settings(Reference(NAME, digest), path), podman, records, sleep)
    assert podman.asked("load") == [f"load --input {path}"]
    assert podman.asked("pull") == []


def test_a_good_image_is_what_is_gone_back_to(
    podman: FakePodman, records: Records, sleep: Sleep, tmp_path: Path
) -> None:
    asked, settings, systemctl = tmp_path / "asked", tmp_path / "image.env", tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{asked}\ncase "$*" in *is-enabled*lmcache*) exit 1;; esac\n')
    systemctl.chmod(0o755)
    old, new = f"{NAME}@{DIGEST}", f"{NAME}@sha256:{'5' * 64}"
    assert roll_back(records, settings, str(systemctl)) == ""
    fetch(WANTED, podman, records, sleep)
    assert mark_good(podman, records)
    assert not mark_good(podman, records)
    assert roll_back(records, settings, str(systemctl)) == ""

    podman.would_fetch([IMAGE, {"Id": "5" * 64}])
    fetch(Settings(Reference(NAME, f"sha256:{'5' * 64}"), None), podman, records, sleep)
    settings.write_text(f'# managed\nIMAGE_REFERENCE="{new}"\nIMAGE_ARCHIVE=""\n')
    assert records.read("current") == new
    assert roll_back(records, settings, str(systemctl)) == old
    assert records.read("current") == old
    assert settings.read_text() == f'# managed\nIMAGE_REFERENCE="{old}"\nIMAGE_ARCHIVE=""\n'
    assert asked.read_text().splitlines()[-1] == "restart infbox-vllm.service"
    assert podman.asked("image rm") == []


def test_an_older_image_that_was_fetched_goes_when_a_newer_one_is_good(
    podman: FakePodman, records: Records, sleep: Sleep
) -> None:
    fetch(WANTED, podman, records, sleep)
    mark_good(podman, records)
    podman.would_fetch([IMAGE, {"Id": "5" * 64}])
    fetch(Settings(Reference(NAME, f"sha256:{'5' * 64}"), None), podman, records, sleep)
    assert podman.asked("image rm") == []
    mark_good(podman, records)
    assert podman.asked("image rm") == [f"image rm {ID}"]
    assert records.read("fetched") == "5" * 64


def test_a_box_without_podman_is_told_what_brings_it(podman: FakePodman, records: Records, sleep: Sleep) -> None:
    podman.program = "/nonexistent/podman"
    with pytest.raises(ImageError, match="podman cannot be run") as caught:
        fetch(WANTED, podman, records, sleep)
    assert "container_toolkit" in caught.value.hint
