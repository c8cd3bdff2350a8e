"""`./bootstrap.sh` on a bare server."""

import json
from collections.abc import Iterator

import pytest
from bare_server import Server, changed, hosts

NAME = "infbox-bootstrap"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield Server(NAME, hosts.os_release()["VERSION_CODENAME"], tmp_path_factory.mktemp("bootstrap"))
    hosts.down(NAME)


def test_without_root_it_says_what_to_type(server: Server) -> None:
    server.run("chmod", "755", "/root")
    done = server.run("runuser", "-u", "nobody", "./bootstrap.sh")
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "hint: sudo ./bootstrap.sh" in done.stderr


def test_an_option_it_does_not_know_changes_nothing(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--presets", "cpu")
    assert done.returncode == 2
    assert "does not know --presets" in done.stderr
    assert server.run("test", "-e", "/etc/infbox").returncode == 1


def test_an_unknown_preset_stops_before_anything_is_changed(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--preset", "cpuu")
    assert done.returncode == 1
    assert "cpuu" in done.stderr
    assert "did you mean `cpu`" in done.stderr
    assert server.run("test", "-e", "/etc/infbox").returncode == 1


def test_a_bare_server_becomes_a_box_that_answers(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--", *server.options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "this machine has no NVIDIA GPU" in done.stdout
    assert "==> preset cpu" in done.stdout
    assert "The capital of France is Paris" in done.stdout
    asked = server.run(
        "sh", "-c", "curl --version >/dev/null 2>&1 || apt-get install -qq -y curl >/dev/null 2>&1;"
        ' curl -sS --cacert /etc/infbox/ca.crt https://localhost/v1/models'
        ' -H "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"',
    )  # fmt: skip
    assert json.loads(asked.stdout)["data"][0]["id"] == "SmolLM2-135M-Instruct"


def test_a_second_run_changes_nothing(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--", *server.options)
    assert not changed(done), "\n".join(changed(done))
    assert "changed=0" in done.stdout


def test_its_services_are_looked_at_without_ansible(server: Server) -> None:
    told = server.run("make", "status")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "vllm            running, for " in told.stdout
    assert "answers         yes\n" in told.stdout
    assert "vllm" in server.run("timeout", "5", "make", "logs").stdout


def test_on_a_gpu_it_takes_the_preset_that_fits_and_says_what_stands_in_the_way(server: Server) -> None:
    """The GPU is a folder in place of the kernel's, so what comes of it is refused where the real one is asked."""
    stand_in = (
        "gpu=/root/pci/0000:01:00.0; mkdir -p $gpu; cd $gpu; echo 0x10de >vendor; echo 0x030200 >class;"
        " echo 0x26b9 >device; mount --bind /root/pci /sys/bus/pci/devices;"
        " sed 's/^MemTotal:.*/MemTotal: 67108864 kB/' /proc/meminfo >/root/meminfo;"
        " mount --bind /root/meminfo /proc/meminfo"
    )
    assert server.run("sh", "-c", stand_in).returncode == 0
    nowhere = ["--extra-vars", "nvidia_driver_repository_url=file:///nowhere"]
    try:
        done = server.run("./bootstrap.sh", "--", *server.options, *nowhere, "--tags", "hardware,nvidia_driver")
    finally:
        server.run("umount", "/proc/meminfo", "/sys/bus/pci/devices")
    assert done.returncode == 2, done.stdout[-6000:] + done.stderr[-2000:]
    assert "==> this machine has 1xL40S, no driver, 64 GiB of RAM\n==> preset dev32\n" in done.stdout
    assert "file:///nowhere/debian12/x86_64/3bf863cc.pub is out of reach: " in done.stdout
    assert "hint: mend the network; or name a mirror with `nvidia_driver_repository_url`" in done.stdout
