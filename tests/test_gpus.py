"""How a machine's GPUs are, by what its driver says, and what lies between them; no machine here has a GPU.

nvidia-smi is a program that prints what the real one does, shortened: XML of an L4 with driver 555.42.06, and the
fields that other GPUs and drivers have in its place.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from infbox import gpus
from infbox.hardware import judge
from infbox.planner import role_defaults
from infbox.preset import load_preset
from test_hardware import L40S, Machine, of

ROOT = Path(__file__).resolve().parents[1]
LOG = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><driver_version>555.42.06</driver_version><attached_gpus>1</attached_gpus>{}</nvidia_smi_log>
"""
GPU = """<gpu id="00000000:01:00.0"><product_name>NVIDIA L4</product_name>
<gpu_reset_status><reset_required>No</reset_required></gpu_reset_status>
<ecc_errors>
    <volatile>
        <sram_correctable>3</sram_correctable>
        <sram_uncorrectable_parity>0</sram_uncorrectable_parity>
        <sram_uncorrectable_secded>0</sram_uncorrectable_secded>
        <dram_correctable>9</dram_correctable>
        <dram_uncorrectable>0</dram_uncorrectable>
    </volatile>
    <aggregate><dram_uncorrectable>5</dram_uncorrectable></aggregate>
</ecc_errors>
<retired_pages><pending_blacklist>N/A</pending_blacklist><pending_retirement>N/A</pending_retirement></retired_pages>
<remapped_rows>
    <remapped_row_pending>No</remapped_row_pending>
    <remapped_row_failure>No</remapped_row_failure>
</remapped_rows></gpu>"""
WELL = {"uncorrected_errors": 0, "remap_pending": False, "remap_failed": False, "recovery": ""}
NONE = "<gpu_recovery_action>None</gpu_recovery_action>"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    found.add("0000:01:00.0", "26b9", driver="nvidia")
    return found


def answers(machine: Machine, xml: str, csv: str = L40S) -> None:
    (machine.smi.parent / "answer.xml").write_text(xml)
    (machine.smi.parent / "answer.csv").write_text(csv)
    folder = machine.smi.parent
    machine.prints(f"""case "$*" in *-x*) cat '{folder}/answer.xml';; *) cat '{folder}/answer.csv';; esac""")


def health(machine: Machine) -> dict[str, Any]:
    return machine.facts()["gpus"][0]["health"]


def kinds(facts: dict[str, Any]) -> list[str]:
    return [fault["kind"] for fault in gpus.gpu_faults(facts)]


def test_a_gpu_that_is_well_has_no_fault(machine: Machine) -> None:
    answers(machine, LOG.format(GPU))
    assert health(machine) == WELL
    assert machine.facts()["driver_fault"] == ""
    assert kinds(machine.facts()) == []


@pytest.mark.parametrize(
    ("old", "new", "changed", "kind"),
    [
        ("<dram_uncorrectable>0<", "<dram_uncorrectable>2<", {"uncorrected_errors": 2}, "uncorrected"),
        ("<sram_uncorrectable_parity>0<", "<sram_uncorrectable_parity>1<", {"uncorrected_errors": 1}, "uncorrected"),
        ("<volatile>", "<volatile><double_bit><total>4</total></double_bit>", {"uncorrected_errors": 4}, "uncorrected"),
        ("_pending>No", "_pending>Yes", {"remap_pending": True}, "remap_pending"),
        ("<pending_retirement>N/A", "<pending_retirement>Yes", {"remap_pending": True}, "remap_pending"),
        ("_failure>No", "_failure>Yes", {"remap_failed": True}, "remap_failed"),
        ("<reset_required>No", "<reset_required>Yes", {"recovery": "Reset"}, "recovery"),
        ("<gpu_reset_status>", "<gpu_recovery_action>Reboot</gpu_recovery_action><gpu_reset_status>",
         {"recovery": "Reboot"}, "recovery"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_gpu_is_read(
    machine: Machine, old: str, new: str, changed: dict[str, Any], kind: str
) -> None:
    answers(machine, LOG.format(GPU.replace(old, new)))
    assert health(machine) == WELL | changed
    (fault,) = gpus.gpu_faults(machine.facts())
    assert (fault["kind"], fault["address"]) == (kind, "0000:01:00.0")
    assert ("reboot the machine" in fault["hint"]) or kind == "remap_failed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<gpu_reset_status>", f"{NONE}<gpu_reset_status>"),
        ("<dram_uncorrectable>0<", "<dram_uncorrectable>N/A<"),
        ("_pending>No", "_pending>N/A"),
        (GPU, '<gpu id="00000000:01:00.0"></gpu>'),
        ("</nvidia_smi_log>\n", "</nvidia_smi_log>\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n"),
    ],
    ids=["no action", "no ECC", "no remapping", "nothing known", "a warning below"],
)
def test_what_a_gpu_or_a_driver_does_not_have_is_no_fault(machine: Machine, old: str, new: str) -> None:
    answers(machine, LOG.format(GPU).replace(old, new), f"{L40S}\nWARNING: infoROM is corrupted at gpu 0000:01:00.0\n")
    assert machine.facts()["driver_fault"] == ""
    assert health(machine) == WELL


def test_a_gpu_that_the_driver_does_not_list_is_missing(machine: Machine) -> None:
    machine.add("0000:02:00.0", "26b9", driver="nvidia")
    machine.add("0000:03:00.0", "26b9")
    answers(machine, LOG.format(GPU))
    (fault,) = gpus.gpu_faults(machine.facts())
    assert (fault["kind"], fault["address"]) == ("missing", "0000:02:00.0")


@pytest.mark.parametrize("xml", ["", "no devices were found", "<nvidia_smi_log>", "<a><gpu/></a>", "x" * 1_000_000,
                                 '<nvidia_smi_log><gpu id="?"/></nvidia_smi_log>'])  # fmt: skip
def test_an_answer_that_is_not_understood_is_said_and_blames_no_gpu(machine: Machine, xml: str) -> None:
    answers(machine, xml)
    assert "not understood" in machine.facts()["driver_fault"]
    assert len(machine.facts()["driver_fault"]) < 1000
    assert kinds(machine.facts()) == []


def test_a_tool_that_cannot_be_killed_is_not_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken GPU keeps nvidia-smi in the kernel: here, a child keeps its output open."""
    monkeypatch.setattr(gpus, "ANSWER_SECONDS", 0.3)
    machine.prints("sleep 5 & wait")
    began = time.monotonic()
    assert "does not answer within" in machine.facts()["driver_fault"]
    assert time.monotonic() - began < 4


def config(*capabilities: tuple[int, int], size: int = 4096, next_of_last: int = 0) -> bytes:
    """A PCI Express configuration space with these extended capabilities: (id, what stands at offset 4)."""
    space = bytearray(size)
    for number, (kind, body) in enumerate(capabilities):
        at = 0x100 + 16 * number
        after = at + 16 if number + 1 < len(capabilities) else next_of_last
        space[at : at + 8] = (kind | 1 << 16 | after << 20).to_bytes(4, "little") + body.to_bytes(4, "little")
    return bytes(space)


ACS_ON, ACS_OFF, OTHER = (0x000D, 0x001D_001F), (0x000D, 0x0011_001F), (0x0001, 0x000C_0000)


@pytest.mark.parametrize(
    ("space", "redirects"),
    [
        (config(OTHER, ACS_ON), True),
        (config(OTHER, ACS_OFF), False),
        (config(OTHER, next_of_last=0x100), False),
        (config(OTHER, next_of_last=0xFFC), False),
        (config(size=64), False),
        (b"", False),
    ],
    ids=["on", "off", "in a circle", "out of it", "no root", "empty"],
)
def test_bridges_that_redirect_are_found(tmp_path: Path, space: bytes, redirects: bool) -> None:
    bridge = tmp_path / "pci0000:00" / "0000:00:01.0"
    device = bridge / "0000:01:00.0"
    (device / "iommu_group").mkdir(parents=True)
    (device / "iommu_group" / "type").write_text("DMA-FQ\n")
    for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("device", "0x26b9")):
        (device / name).write_text(f"{text}\n")
    (bridge / "config").write_bytes(space)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / device.name).symlink_to(device)
    (found,) = gpus.machine_facts(tmp_path / "devices", meminfo=tmp_path)["gpus"]
    assert found["iommu"] == "DMA-FQ"
    assert found.get("redirected_by", []) == ["0000:00:01.0"] * redirects


def judged(preset: str, facts: dict[str, Any], **values: object) -> tuple[list[str], str]:
    """(the problems, the notes) of a machine."""
    told = judge(ROOT, preset, role_defaults(ROOT) | load_preset(ROOT, preset).values | values, facts)
    return [f"{problem.message} | {problem.hint}" for problem in told.problems], " | ".join(told.notes)


def with_health(*devices: str, ram: float = 128.0, **changed: object) -> dict[str, Any]:
    return of(*devices, ram=ram, driver="nvidia", health=WELL | changed)


def test_a_faulty_gpu_is_refused_unless_it_is_asked_for() -> None:
    problems, _ = judged("dev32", with_health("26b9", uncorrected_errors=1))
    (problem,) = problems
    assert "the GPU at 0000:00:00.0: 1 memory error since" in problem
    assert "`hardware_refuse_faulty_gpus: false` goes on all the same" in problem
    problems, notes = judged("dev32", with_health("26b9", uncorrected_errors=1), hardware_refuse_faulty_gpus=False)
    assert problems == []
    assert "1 memory error since" in notes
    assert judged("dev32", with_health("26b9"))[0] == []
    assert judged("cpu", with_health("26b9", uncorrected_errors=1))[0] == []


def test_what_makes_gpus_without_nvlink_slow_together_is_said() -> None:
    between = {"iommu": "DMA", "redirected_by": ["0000:00:01.0"]}

    def notes(*devices: str, preset: str = "a6000x2", **changed: object) -> str:
        return judged(preset, of(*devices, ram=2000.0, **changed) | {"shared_memory_gib": 64.0})[1]

    told = notes("2230", "2230", **between)
    assert "`iommu=pt`" in told
    assert "turn ACS off" in told
    assert notes("2230", "2230", iommu="identity") == ""
    assert notes("2230", "2230") == ""
    assert notes("26b9", preset="dev32", **between) == ""
    assert notes(*["2330"] * 8, preset="prod480", **between) == ""


def test_too_little_shared_memory_for_several_gpus_is_said() -> None:
    small = {"shared_memory_gib": 0.0625}
    assert "has 0.06 GiB" in judged("a6000x2", of("2230", "2230", ram=128.0) | small)[1]
    assert judged("dev32", of("26b9") | small)[1] == ""
