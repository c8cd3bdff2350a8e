"""What the driver says of pairs of GPUs; no machine here has two.

nvidia-smi is a program that prints what the real one does: tables that others published, of two RTX 5090, and of a DGX
A100 with network cards; the latter cut down, with one pair changed to SYS and its heading underlined.
"""

from pathlib import Path
from typing import Any

import pytest

from infbox.hardware import describe
from test_gpus import judged
from test_hardware import Machine, of

ROW = "0000{}, NVIDIA GPU, 81559, 9.0, 580.95.05"
TWO = """\
\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tPHB\t0-63\t0\t\tN/A
GPU1\tPHB\t X \t0-63\t0\t\tN/A

Legend:

  X    = Self
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
"""
NONE = """\
 \tGPU0\tGPU1\t
 GPU0\tX\tGNS\t
 GPU1\tGNS\tX\t

Legend:

  X    = Self
  GNS  = GPU not supported
"""
CARDS = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV12\tNV12\tPXB\tPXB\t48-63,176-191\t3\t\tN/A
GPU1\tNV12\t X \tSYS\tPXB\tPXB\t48-63,176-191\t3\t\tN/A
GPU2\tNV12\tSYS\t X \tSYS\tSYS\t16-31,144-159\t1\t\tN/A
NIC0\tPXB\tPXB\tSYS\t X \tPXB
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def answers(machine: Machine, addresses: list[str], paths: str, access: str, device: str = "2b85") -> None:
    """`addresses` in nvidia-smi's order."""
    for address in addresses:
        machine.add(address, device, driver="nvidia")
    folder = machine.smi.parent
    for name, text in (("csv", "\n".join(map(ROW.format, addresses))), ("-m", paths), ("-p2p", access)):
        (folder / name).write_text(text)
    machine.prints(f"""case "$1" in topo) cat "{folder}/$2";; -q) echo '<log/>';; *) cat {folder}/csv;; esac""")


def peers(machine: Machine) -> dict[str, Any]:
    return {gpu["address"]: gpu.get("peers") for gpu in machine.facts()["gpus"]}


def test_two_gpus_that_may_not_read_each_other(machine: Machine) -> None:
    answers(machine, ["0000:01:00.0", "0000:21:00.0"], TWO, NONE)
    how = {"path": "PHB", "access": "GNS"}
    assert peers(machine) == {"0000:01:00.0": {"0000:21:00.0": how}, "0000:21:00.0": {"0000:01:00.0": how}}
    assert ", no NVLink, driver" in describe(machine.facts())


def test_rows_are_in_nvidia_smis_order_and_network_cards_are_none_of_them(machine: Machine) -> None:
    answers(machine, ["0000:0f:00.0", "0000:07:00.0", "0000:47:00.0"], CARDS, "")
    found = peers(machine)
    assert found["0000:07:00.0"] == {"0000:0f:00.0": {"path": "NV12"}, "0000:47:00.0": {"path": "SYS"}}
    assert found["0000:0f:00.0"] == {"0000:07:00.0": {"path": "NV12"}, "0000:47:00.0": {"path": "NV12"}}
    assert "NVLink between some" in describe(machine.facts())


@pytest.mark.parametrize(
    "said",
    ["", 'Option "-m" is not known', TWO.replace("GPU1\tPHB", "GPU2\tPHB"), TWO.replace(" X ", "PHB"), CARDS],
    ids=["nothing", "refused", "a row is missing", "not of itself", "of another machine"],
)
def test_what_is_not_understood_is_not_known(machine: Machine, said: str) -> None:
    answers(machine, ["0000:01:00.0", "0000:21:00.0"], said, said)
    assert peers(machine) == {"0000:01:00.0": None, "0000:21:00.0": None}
    assert machine.facts()["driver_fault"] == ""
    assert "NVLink" not in describe(machine.facts())


def test_one_gpu_is_not_asked_for_others(machine: Machine) -> None:
    answers(machine, ["0000:01:00.0"], "", "")
    machine.prints(f"""[ "$1" != topo ] || touch '{machine.smi}.asked'; echo '{ROW.format("0000:01:00.0")}'""")
    machine.facts()
    assert not Path(f"{machine.smi}.asked").exists()


def notes(*devices: str, preset: str, **how: str) -> str:
    facts = of(*devices, ram=2000.0, driver="nvidia")
    for gpu in facts["gpus"]:
        gpu["peers"] = {other["address"]: how for other in facts["gpus"] if other is not gpu}
    return judged(preset, facts)[1]


def test_memory_that_others_may_not_read_is_told_with_what_it_costs() -> None:
    told = notes("2230", "2230", preset="a6000x2", path="PHB", access="CNS")
    assert "the GPUs at 0000:00:00.0 and 0000:01:00.0 may not read each other's memory (CNS: the chipset does" in told
    assert "by way of RAM" in told
    assert notes("2230", "2230", preset="a6000x2", path="PHB", access="OK") == ""
    assert notes("2230", "2230", preset="a6000x2", path="PHB", access="U") == ""


def test_nvlink_that_is_there_and_not_used_is_told() -> None:
    told = notes(*["2330"] * 8, preset="prod480", path="SYS", access="OK")
    assert told.startswith("NVLink, which the GPUs at 0000:00:00.0, 0000:01:00.0, ")
    assert "joins them to no other: `nvidia-smi nvlink --status`" in told
    assert notes(*["2330"] * 8, preset="prod480", path="NV18", access="OK") == ""
    assert notes("2230", "2230", preset="a6000x2", path="NODE", access="OK") == ""


def test_links_to_some_of_the_others_are_enough() -> None:
    facts = of(*["2330"] * 8, ram=2000.0, driver="nvidia")
    addresses = [gpu["address"] for gpu in facts["gpus"]]
    for number, gpu in enumerate(facts["gpus"]):
        ways = {address: "NV1" if number ^ at in (1, 2, 3, 4) else "SYS" for at, address in enumerate(addresses)}
        gpu["peers"] = {address: {"path": way} for address, way in ways.items() if address != gpu["address"]}
    assert judged("prod480", facts)[1] == ""
    facts["gpus"][5]["peers"] = {address: {"path": "SYS"} for address in facts["gpus"][5]["peers"]}
    assert judged("prod480", facts)[1].startswith("NVLink, which the GPUs at 0000:05:00.0 have, joins")
