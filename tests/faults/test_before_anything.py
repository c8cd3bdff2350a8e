"""Faults that are found before anything is changed. The host stays bare."""

import json
import subprocess

import pytest
from faulty_box import ROOT, FaultyBox, message


def test_an_unknown_preset(box: FaultyBox) -> None:
    inventory = box.inventory.with_name("unknown.yml")
    inventory.write_text(box.inventory.read_text().replace('"cpu"', '"gpu9"'))
    said = message(FaultyBox(box.login, inventory).play())
    assert "is in no preset's group" in said
    assert "put it into the group of its preset in your inventory, one of cpu" in said


def test_a_misspelled_variable(box: FaultyBox) -> None:
    said = message(box.play(caddy_https_prot=8443))
    assert "no role declares `caddy_https_prot`" in said
    assert "did you mean `caddy_https_port`?" in said
    assert not box.touched()


@pytest.mark.parametrize(
    "program", ["hosts/host.py up infbox-faults-nobody --folder /tmp/infbox-nobody", "hosts/demo.py up"]
)
def test_making_a_host_without_root(program: str) -> None:
    words = ["runuser", "-u", "nobody", "--", "/usr/bin/python3", *program.split()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: making a host needs root.\n\nhint: run it with sudo, or as root\n"


def test_a_user_who_cannot_become_root(box: FaultyBox) -> None:
    box.run("useradd --create-home plain && cp -r /root/.ssh /home/plain/ && chown -R plain: /home/plain/.ssh")
    said = message(box.play(ansible_user="plain"))
    assert "`plain` cannot become root on infbox-faults" in said
    assert "hint: log in as root, or as a user who may use sudo" in said
    said = message(box.play(ansible_user="plain", ansible_become=False))
    assert "needs root" in said
    assert not box.touched()
    box.run("userdel --force --remove plain")


def test_a_taken_port_and_a_small_disk_are_one_message(box: FaultyBox) -> None:
    box.run("mkdir -p /opt/infbox && mount -t tmpfs -o size=64M full /opt/infbox")
    box.run("systemd-run --quiet --unit=taker python3 -m http.server 443")
    for options in ([], ["--check"]):
        said = message(box.play(*options))
        assert "2 problems; nothing was changed:" in said
        assert "1. `caddy_https_port` is 443, and `python3` (process " in said
        assert "taker.service) listens there already" in said
        assert "hint: stop it (`systemctl disable --now taker`), or set `caddy_https_port` to another port" in said
        assert "2. /opt/infbox/vllm needs 4.0 GB more, and its disk has 0.1 GB free" in said
        assert "hint: make room (`df -h /opt/infbox`), or mount a larger disk there" in said
    box.run("systemctl stop taker; umount /opt/infbox")
    assert not box.touched()


def test_a_machine_with_less_memory_than_its_preset_needs(box: FaultyBox) -> None:
    for options in ([], ["--check"]):
        said = message(box.play(*options, tags="hardware", hardware_ram_gib=100_000))
        assert "preset cpu is made for the processor and 100000 GiB of RAM, and this machine has " in said
        assert "GiB of RAM are less than `hardware_ram_gib` 100000" in said
        assert "hint: use a machine like the preset's, or a preset for this one" in said
    assert not box.touched()


def test_the_machine_is_checked_in_under_two_seconds(box: FaultyBox) -> None:
    arguments = {"ports": {"caddy_https_port": 443}, "space": [{"path": "/opt/x", "gigabytes": 1, "until": "/opt/x/y"}]}
    command = [
        *box.command()[:5],
        "--become",
        "--module-name",
        "infbox_preflight",
        "--args",
        json.dumps(arguments),
        "all",
    ]
    command[0] = command[0].removesuffix("-playbook")
    done = subprocess.run(command, cwd=ROOT, env=box.environment, capture_output=True, text=True, timeout=20)
    assert "SUCCESS" in done.stdout, done.stdout
