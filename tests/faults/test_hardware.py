"""How role `hardware` counts GPUs, on a stand-in for /sys/bus/pci: no host here has one."""

from pathlib import Path
from types import ModuleType

import pytest
from faulty_box import ansible_module


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The module itself: no host here has a GPU."""
    return ansible_module("infbox_hardware")


def test_gpus_are_counted_on_pci_without_their_audio_and_without_others(module: ModuleType, tmp_path: Path) -> None:
    for slot, (vendor, kind) in enumerate(
        [
            ("0x10de", "0x030200"),  # a data-centre GPU: 3D controller
            ("0x10de", "0x030000"),  # a graphics card
            ("0x10de", "0x040300"),  # its audio
            ("0x1002", "0x030000"),  # another maker's
        ]
    ):
        device = tmp_path / f"0000:00:{slot:02x}.0"
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:01:00.0").mkdir()
    assert module.nvidia_gpus(tmp_path) == 2
    assert module.nvidia_gpus(tmp_path / "none") == 0
