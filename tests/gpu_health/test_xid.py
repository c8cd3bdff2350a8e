"""Lines of the kernel's log, as NVIDIA's documentation, its kernel modules and public bug reports have them."""

import time

import pytest

from infbox.gpu_health.xid import ACTIONS, MEANINGS, TO_DO, Action, Xid, parse

PREFIX = "NVRM: Xid (PCI:0000:01:00): "


@pytest.mark.parametrize(
    ("line", "address", "number", "action"),
    [
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", "0000:03:00", 14, Action.NONE),
        (
            "NVRM: Xid (PCI:0000:01:00): 31, pid=80798, name=llama-server, Ch 00000008, intr 00000000. MMU Fault: "
            "ENGINE GRAPHICS GPC1 GPCCLIENT_T1_3 faulted @ 0x7e9f_4f200000. Fault is of type FAULT_PDE "
            "ACCESS_TYPE_VIRT_READ",
            "0000:01:00", 31, Action.ENGINE,
        ),
        (
            "NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping, reset gpu to "
            "activate.",
            "0000:10:1c", 63, Action.NONE,
        ),
        ("NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
         "0000:05:00", 79, Action.REBOOT),
        ("[ 3947.590120] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", "0000:01:00", 79, Action.REBOOT),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
         "0000:01:00", 94, Action.ENGINE),
        ("NVRM: Xid (PCI:0000:01:00): 95, pid=7062, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
         "0000:01:00", 95, Action.RESET),
        (
            "NVRM: Xid (PCI:000F:61:00): 119, pid=123417, name=nv-hostengine, Timeout after 6s of waiting for RPC "
            "response from GPU0 GSP! Expected function 10 (FREE) (0xc0000005 0x0).",
            "000f:61:00", 119, Action.RESET,
        ),
        ("NVRM: Xid (PCI:0008:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
         "0008:01:00", 154, Action.RESET),
        (f"{PREFIX}154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "0000:01:00", 154,
         Action.REBOOT),
        (f"{PREFIX}154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", "0000:01:00", 154,
         Action.NONE),
        (f"{PREFIX}154, in words that a later driver writes", "0000:01:00", 154, Action.SUPPORT),
        (f"{PREFIX}74, pid=1, NVLink: fatal error detected on link 6(0x10000, 0x0)", "0000:01:00", 74, Action.LINK),
        (f"{PREFIX}61", "0000:01:00", 61, Action.SUPPORT),
        (f"{PREFIX}185, Sparing event", "0000:01:00", 185, Action.UNKNOWN),
    ],
)  # fmt: skip
def test_real_lines_are_understood(line: str, address: str, number: int, action: Action) -> None:
    found = parse(line, 12.5)
    assert found is not None
    assert (found.at, found.address, found.number, found.action) == (12.5, address, number, action)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "NVRM: GPU at PCI:0000:08:00: GPU-926ecdb0-adb1-6ee9-2fad-52e7214c5011",
        "NVRM: Xid error: xyz, invalid data",
        "NVRM: Xid (PCI:0000:66:00): abc, pid=2280636",
        "NVRM: Xid (PCI:0000:66:00): ",
        "NVRM: Xid (PCI:0000:66:00): 79999, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:0000:66:00",
        "NVRM: Xid (): 79, GPU has fallen off the bus.",
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
        "\x00\ufffd\U0001f600",
    ],
)
def test_lines_that_tell_of_no_error_are_none(line: str) -> None:
    assert parse(line, 0.0) is None


def test_a_huge_line_is_cut_and_costs_no_time() -> None:
    began = time.monotonic()
    found = parse(f"{PREFIX}13, {'name=' * 1_000_000}", 0.0)
    assert found is not None
    assert len(found.text) <= 400
    assert parse("NVRM: Xid (PCI:" * 200_000, 0.0) is None
    assert time.monotonic() - began < 5


def test_what_a_program_calls_itself_cannot_write_to_a_terminal() -> None:
    found = parse(f"{PREFIX}61, pid=1, name=\x1b[2Jevil\x07\u202e", 0.0)
    assert found is not None
    assert found.meaning == "pid=1, name=[2Jevil"


def test_every_error_that_wants_a_person_says_what_to_do() -> None:
    of_people = set(Action) - {Action.NONE, Action.ENGINE, Action.UNKNOWN}
    assert set(TO_DO) == of_people
    assert set(ACTIONS) == set(range(1, 163))
    assert set(MEANINGS) <= set(ACTIONS)


def test_an_error_without_words_of_ours_has_the_drivers() -> None:
    assert Xid(0.0, "0000:01:00", 61, "Unknown").meaning == "Unknown"
    assert Xid(0.0, "0000:01:00", 61).meaning == "no description"
