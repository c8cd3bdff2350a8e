"""How a service is run in an image: what it has of the box, and what it waits for."""

import os
import pwd
from pathlib import Path

import pytest

from infbox.errors import ImageError
from infbox.image.run import Program, cgroup_options, linked, missing_of_gpus, wait_for_gpus, words
from infbox.image.store import Image

IMAGE = Image("f" * 64, {"PATH": "/venv/bin:/usr/bin"})
USER = pwd.getpwuid(os.getuid())


def made(image: Image = IMAGE, **of: object) -> list[str]:
    program = Program(**({"name": "infbox-vllm", "user": USER.pw_name, "command": ("vllm", "serve")} | of))  # type: ignore[arg-type]
    return words(program, image, ["--cgroups=split"], 0o007)


def test_the_program_follows_the_image_and_everything_else_precedes_it() -> None:
    said = made()
    assert said[-3:] == ["--entrypoint=vllm", "f" * 64, "serve"]
    assert said[0] == "podman"
    assert "--pull=never" in said


def test_its_sandbox_is_no_weaker_than_its_units() -> None:
    said = made()
    for word in (
        "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--network=host",
        "--security-opt=proc-opts=hidepid=2", f"--user={USER.pw_uid}:{USER.pw_gid}", "--umask=0007",
    ):  # fmt: skip
        assert word in said
    assert not any("privileged=" in word or word.startswith(("--cap-add", "--device", "--publish")) for word in said)


def test_it_has_its_units_variables_by_name_alone_and_none_of_the_processs() -> None:
    environment = {"PATH": "/usr/bin", "HF_TOKEN": "secret", "INVOCATION_ID": "1", "HOME": "/var/cache/x"}
    said = made(environment=environment)
    assert "--env=HF_TOKEN" in said
    assert "--env=HOME" in said
    assert not any("secret" in word or word in ("--env=PATH", "--env=INVOCATION_ID") for word in said)


def test_the_package_comes_from_the_box_and_the_images_own_path_stays() -> None:
    said = made(Image("f" * 64, {"PYTHONPATH": "/plugins"}))
    assert "--env=PYTHONPATH=/opt/infbox/package:/plugins" in said
    assert [word for word in said if word.endswith(":/opt/infbox/package/infbox:ro")]


def test_it_sees_what_is_named_and_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    said = made(read=(tmp_path / "there", tmp_path / "not"), write=(tmp_path,), shared_memory=Path("/dev/shm/x"))
    volumes = [word.removeprefix("--volume=") for word in said if word.startswith("--volume=")]
    assert volumes[1:] == [f"{tmp_path}/there:{tmp_path}/there:ro", f"{tmp_path}:{tmp_path}", "/dev/shm/x:/dev/shm"]


def test_files_of_a_hubs_cache_are_found_where_their_links_say(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "abc").write_text("weights")
    (snapshot / "model").symlink_to("../../blobs/abc")
    (snapshot / "own").write_text("")
    models = tmp_path / "models"
    models.mkdir()
    (models / "name").symlink_to(snapshot)
    assert linked(snapshot) == {blobs: blobs}
    assert linked(models / "name") == {tmp_path / "blobs": blobs}
    assert linked(blobs) == {}
    assert linked(blobs / "abc") == {}


def test_a_watchdog_reaches_systemd_and_not_podman() -> None:
    said = made(environment={"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert "--sdnotify=ignore" in said
    assert "--volume=/run/systemd/notify:/run/systemd/notify" in said
    assert "--env=NOTIFY_SOCKET=/run/systemd/notify" in said


def test_gpus_are_asked_for_by_their_description() -> None:
    assert "--device=nvidia.com/gpu=all" in made(gpus=True)


def test_a_user_who_is_not_there_is_said() -> None:
    with pytest.raises(ImageError, match="no user infbox-nobody"):
        made(user="infbox-nobody")


def test_the_container_stays_in_the_units_group(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/x\n1:name=systemd:/system.slice/infbox-vllm.service\n0::/\n")
    assert cgroup_options(tmp_path, own)[-1] == "--cgroup-parent=/system.slice/infbox-vllm.service"
    (tmp_path / "cgroup.controllers").write_text("memory")
    assert cgroup_options(tmp_path, own) == ["--cgroups=split"]


def test_what_gpus_lack_is_named(tmp_path: Path) -> None:
    devices, etc, run = tmp_path / "dev", tmp_path / "etc", tmp_path / "run"
    for folder in (devices, etc, run):
        folder.mkdir()
    missing = missing_of_gpus(devices, (etc, run))
    assert missing == [str(devices / name) for name in ("nvidia0", "nvidiactl", "nvidia-uvm")] + [
        f"a description of nvidia.com/gpu in {etc} or {run}"
    ]
    for name in ("nvidia3", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    (etc / "other.yaml").write_text("kind: example.com/device")
    assert len(missing_of_gpus(devices, (etc, run))) == 1
    (run / "nvidia.yaml").write_text("kind: nvidia.com/gpu")
    assert missing_of_gpus(devices, (etc, run)) == []


def test_gpus_that_come_late_are_waited_for_and_ones_that_do_not_are_an_error() -> None:
    now, said = [0.0], []

    def nap(seconds: float) -> None:
        now[0] += seconds

    def look() -> list[str]:
        return ["/dev/nvidiactl"] if now[0] < 40 else []

    wait_for_gpus(100, look, said.append, lambda: now[0], nap)
    assert said == ["waiting for the GPUs: no /dev/nvidiactl"] * 3
    now[0] = 0.0
    with pytest.raises(ImageError, match=r"not there after 2\d s: no /dev/nvidiactl"):
        wait_for_gpus(20, look, said.append, lambda: now[0], nap)
