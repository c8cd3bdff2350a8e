"""What GPUs a machine has, and whether it is one for its preset; no machine here has a GPU.

/sys/bus/pci is a folder with the files that the kernel writes, nvidia-smi a program that prints what the real one does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infbox import gpus
from infbox.catalogue.gpus import gpus_by_pci
from infbox.cli import main
from infbox.hardware import describe, fitting, judge
from infbox.planner import role_defaults
from infbox.preset import load_preset

ROOT = Path(__file__).resolve().parents[1]
GPU_3D, GRAPHICS, AUDIO, BRIDGE = "0x030200", "0x030000", "0x040300", "0x068000"
L40S = "00000000:01:00.0, NVIDIA L40S, 46068, 8.9, 580.95.05"


class Machine:
    """A stand-in for /sys/bus/pci/devices, and for nvidia-smi."""

    def __init__(self, folder: Path) -> None:
        self.devices, self.smi, self.meminfo = folder / "devices", folder / "nvidia-smi", folder / "meminfo"
        self.devices.mkdir()
        self.meminfo.write_text("MemFree: 1 kB\nMemTotal:       65536000 kB\n")
        self.drivers = folder / "drivers"

    def add(self, address: str, device: str, kind: str = GPU_3D, vendor: str = "0x10de", driver: str = "") -> None:
        place = self.devices / address
        place.mkdir()
        for name, text in (("vendor", vendor), ("class", kind), ("device", f"0x{device}")):
            (place / name).write_text(f"{text}\n")
        if driver:
            (self.drivers / driver).mkdir(parents=True, exist_ok=True)
            (place / "driver").symlink_to(self.drivers / driver)

    def prints(self, script: str) -> None:
        self.smi.write_text(f"#!/bin/sh\n{script}\n")
        self.smi.chmod(0o755)

    def facts(self) -> dict[str, Any]:
        return gpus.machine_facts(self.devices, str(self.smi), self.meminfo)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_gpus_are_found_on_pci_without_their_audio_and_without_others(machine: Machine) -> None:
    machine.add("0000:01:00.0", "26b9")
    machine.add("0000:02:00.0", "2684", GRAPHICS, driver="nouveau")
    machine.add("0000:02:00.1", "22ba", AUDIO)
    machine.add("0000:03:00.0", "73df", GRAPHICS, vendor="0x1002")
    machine.add("0000:04:00.0", "22a3", BRIDGE)
    (machine.devices / "0000:05:00.0").mkdir()
    found = machine.facts()
    assert found["gpus"] == [
        {"address": "0000:01:00.0", "device": "26b9", "driver": ""},
        {"address": "0000:02:00.0", "device": "2684", "driver": "nouveau"},
    ]
    assert found["nvswitches"] == 1
    assert found["ram_gib"] == 62.5
    assert describe(found) == "1xL40S, 1xRTX4090, driver nouveau, 62 GiB of RAM"


def test_without_pci_there_is_no_gpu(tmp_path: Path) -> None:
    none = tmp_path / "none"
    found = gpus.machine_facts(none, meminfo=none, shared=none)
    assert found == {"ram_gib": 0.0, "shared_memory_gib": 0.0, "gpus": [], "nvswitches": 0, "driver_fault": ""}


def test_the_driver_is_asked_where_it_is(machine: Machine) -> None:
    machine.add("0000:01:00.0", "26b9", driver="nvidia")
    machine.prints(f"echo '{L40S}'")
    (found,) = machine.facts()["gpus"]
    assert found["name"] == "NVIDIA L40S"
    assert (found["memory_mib"], found["compute_capability"], found["driver_version"]) == (46068, 8.9, "580.95.05")
    assert "driver 580.95.05" in describe(machine.facts())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"),
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", "NVIDIA-SMI has failed"),
        ("echo '00000000:01:00.0, NVIDIA L40S, [N/A], 8.9, 580'", "not understood"),
        ("head -c 100000 /dev/zero | tr '\\0' x", "not understood"),
        ("", ""),
    ],
    ids=["mismatch", "no driver", "no number", "huge", "nothing"],
)
def test_a_driver_that_does_not_answer_is_said(machine: Machine, script: str, said: str) -> None:
    machine.add("0000:01:00.0", "26b9", driver="nvidia")
    machine.prints(script)
    found = machine.facts()
    assert said in found["driver_fault"]
    assert len(found["driver_fault"]) < 1000
    assert "memory_mib" not in found["gpus"][0]


def test_a_driver_without_its_tool_and_one_that_hangs_are_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.add("0000:01:00.0", "26b9", driver="nvidia")
    assert "no nvidia-smi" in machine.facts()["driver_fault"]
    monkeypatch.setattr(gpus, "ANSWER_SECONDS", 0.2)
    machine.prints("exec sleep 10")
    assert "does not answer" in machine.facts()["driver_fault"]


def of(*devices: str, ram: float = 62.0, **driver: object) -> dict[str, Any]:
    found = [
        {"address": f"0000:{at:02x}:00.0", "device": device, "driver": "", **driver}
        for at, device in enumerate(devices)
    ]
    return {"ram_gib": ram, "gpus": found, "nvswitches": 0, "driver_fault": ""}


def said(preset: str, facts: dict[str, Any]) -> str:
    """The one problem of a machine for a preset; empty if there is none."""
    found = judge(ROOT, preset, role_defaults(ROOT) | load_preset(ROOT, preset).values, facts).problems
    assert len(found) < 2
    return " | ".join(f"{problem.message} | {problem.hint}" for problem in found)


@pytest.mark.parametrize(
    ("preset", "facts"),
    [
        ("dev32", of("26b9")),
        ("dev32", of("2330")),
        ("dev32", of("26b9", "1eb8")),
        ("prod480", of(*["2330"] * 8, ram=2000)),
        ("cpu", of(ram=8)),
        ("cpu", of("26b9", ram=8)),
    ],
    ids=["its own", "a better one", "beside another", "eight", "none needed", "one too many"],
)
def test_a_machine_that_serves_its_preset_is_taken(preset: str, facts: dict[str, Any]) -> None:
    assert said(preset, facts) == ""


def test_too_few_gpus_are_refused_with_what_would_fit() -> None:
    told = said("prod480", of(*["2330"] * 4, ram=1024))
    assert "preset prod480 is made for 8xH100" in told
    assert "this machine has 4xH100" in told
    assert "is 8 GPUs, and there are 4" in told
    assert "`prod480_int4` with `vllm_max_model_len: " in told


def test_too_small_a_gpu_is_refused_by_the_planner() -> None:
    told = said("dev32", of("27b8"))
    assert "fewer than `vllm_max_model_len` 32,768" in told
    assert "this machine has 1xL4" in told


@pytest.mark.parametrize("preset", ["dev32", "cpu"])
def test_too_little_ram_is_refused(preset: str) -> None:
    assert "GiB of RAM are less than `hardware_ram_gib`" in said(preset, of("26b9", ram=3))


def test_no_gpu_is_refused_with_how_to_find_a_preset() -> None:
    told = said("dev32", of())
    assert "this machine has no NVIDIA GPU" in told
    assert "infbox plan PRESET --gpus" in told


def test_a_slice_of_a_gpu_is_not_taken_for_it() -> None:
    assert "shows 23,000 MiB of 46,068" in said("dev32", of("26b9", memory_mib=23_000))
    assert said("dev32", of("26b9", memory_mib=45_500)) == ""


def test_a_gpu_that_nobody_knows_is_not_refused_but_said() -> None:
    found = judge(ROOT, "dev32", role_defaults(ROOT) | load_preset(ROOT, "dev32").values, of("ffff"))
    assert not found.problems
    assert "not known here (10de:ffff)" in found.notes[0]
    assert "no NVIDIA GPU" not in describe(of("ffff"))


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        (of("26b9"), "dev32"),
        (of(*["2330"] * 8, ram=2000), "prod480"),
        (of(*["2bb5"] * 4, ram=1000), "prod480_int4"),
        (of("2230", "2230", ram=128), "a6000x2"),
        (of("1eb8", ram=32), "agents16"),
    ],
    ids=["L40S", "H100", "RTX PRO 6000", "A6000", "T4"],
)
def test_the_preset_that_is_made_for_a_machine_is_proposed_first(facts: dict[str, Any], first: str) -> None:
    assert fitting(ROOT, facts)[0].preset == first


def test_without_a_gpu_no_gpu_preset_is_proposed() -> None:
    assert fitting(ROOT, of(ram=8)) == []


def test_ids_on_pci_name_one_gpu_each() -> None:
    ids = [device for gpu in set(gpus_by_pci().values()) for device in gpu.pci]
    assert len(ids) == len(set(ids))
    assert not [device for device in ids if len(device) != 4 or int(device, 16) < 0x1000 or device != device.lower()]


@pytest.mark.parametrize(
    ("machine_has", "said"),
    [
        (of(), "no NVIDIA GPU"),
        (of("26b9"), "shows 0 of 1 GPUs"),
        (of("26b9") | {"driver_fault": "nvidia-smi: it failed"}, "nvidia-smi: it failed"),
        (of("26b9", memory_mib=46_068), ""),
    ],
)
def test_gpus_are_ready_when_the_driver_shows_all_that_the_machine_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, machine_has: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("infbox.commands.ready.machine_facts", lambda: machine_has)
    assert main(["ready", "gpus", "--timeout", "0.1"]) == (1 if said else 0)
    assert said in capsys.readouterr().err


def test_the_command_says_what_is_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infbox.commands.machine.machine_facts", lambda: of("26b9"))
    assert main(["machine", "--root", str(ROOT)]) == 0
    assert "1xL40S" in (told := capsys.readouterr().out)
    assert "presets that fit: `dev32`" in told
    assert main(["machine", "--propose", "--root", str(ROOT)]) == 0
    assert capsys.readouterr().out == "dev32\n"
    assert main(["machine", "--json", "--root", str(ROOT)]) == 0
    assert json.loads(capsys.readouterr().out)["proposed"] == "dev32"


def test_the_module_runs_where_nothing_of_infbox_is() -> None:
    """Ansible sends it alone; the link beside it is the package's own file."""
    link = ROOT / "ansible/plugins/module_utils/infbox_gpus.py"
    assert link.resolve() == ROOT / "src/infbox/gpus.py"
    done = subprocess.run([sys.executable, "-I", "-S", str(link)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
