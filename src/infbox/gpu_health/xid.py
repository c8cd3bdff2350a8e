"""Errors that NVIDIA's driver reports in the kernel's log ("NVRM: Xid …"), and what each asks for.

The numbers and what is to be done at once are those of NVIDIA's Xid catalogue for Ampere and later GPUs
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, "Immediate Action"; Table 1, numbers 1 to 162).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from infbox.gpus import RESET

# (0000:03:00) of old drivers, (PCI:0000:17:00), and of a part of a GPU (PCI:0000:01:00 GPU-I:05).
_LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<address>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})"
    r"(?:\.[0-7])?(?: GPU-I:[0-9A-Fa-f]+)?\): "
    r"(?P<number>[0-9]{1,4})\b,? ?(?P<text>.*)"
)
_RECOVERY = re.compile(r"GPU recovery action changed from 0x[0-9A-Fa-f]+ \(.*?\) to 0x(?P<code>[0-9A-Fa-f]{1,2})\b")
LONGEST_TEXT = 200
RECOVERY_CHANGED = 154


class Action(StrEnum):
    """What an error asks for."""

    NONE = "none"
    ENGINE = "engine"  # the programs that used the GPU are broken, and the GPU is not: start them anew
    RESET = "reset"
    REBOOT = "reboot"
    LINK = "link"
    POWER = "power"
    SUPPORT = "support"
    UNKNOWN = "unknown"


# What a person does; nothing is said of what needs none.
TO_DO: Mapping[Action, str] = {
    Action.RESET: RESET,
    Action.REBOOT: "reboot the machine, or power it off and on; replace the GPU if it comes again",
    Action.LINK: f"{RESET}; `nvidia-smi nvlink --status` shows the links; replace the GPU if it comes again",
    Action.POWER: "look at the GPU's power cables",
    Action.SUPPORT: "`nvidia-bug-report.sh` collects what NVIDIA or the machine's vendor will ask for",
}

# The catalogue has nothing done for the last two, since they follow another error. What they say of the program is the
# same: its work on the GPU was ended (43), or cleaned away (45).
_ENGINE = [8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, *range(82, 87), 88, 89, 94,
           *range(96, 106), *range(126, 136), 139, 43, 45]  # fmt: skip
_RESET = [46, 48, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 162]
_NONE = [14, 37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 157, 159, 161]
_REBOOT = [79, 151, 160]
_LINK = [74, *range(144, 151)]
_POWER = [54]
_KNOWN = range(1, 163)

ACTIONS: Mapping[int, Action] = {
    **dict.fromkeys(_KNOWN, Action.SUPPORT),
    **dict.fromkeys(_NONE, Action.NONE),
    **dict.fromkeys(_ENGINE, Action.ENGINE),
    **dict.fromkeys(_RESET, Action.RESET),
    **dict.fromkeys(_REBOOT, Action.REBOOT),
    **dict.fromkeys(_LINK, Action.LINK),
    **dict.fromkeys(_POWER, Action.POWER),
}
# What Xid 154 says is to be done, by NVML's numbers (nvmlDeviceGpuRecoveryAction_t).
RECOVERIES: Mapping[int, Action] = {
    0: Action.NONE, 1: Action.RESET, 2: Action.REBOOT, 3: Action.ENGINE, 4: Action.RESET, 6: Action.RESET,
    7: Action.REBOOT,
}  # fmt: skip
# In a few words, those that people meet; others are told by their number.
MEANINGS: Mapping[int, str] = {
    13: "a program's work failed on the GPU", 31: "a program used memory of the GPU that is not its own",
    43: "a program's work was ended", 45: "a program's work was cleaned away after another error",
    46: "the GPU stopped working", 48: "two bits of memory failed at once", 62: "the GPU's controller halted",
    63: "failed memory will be replaced by spare memory", 64: "failed memory could not be replaced by spare memory",
    74: "a link between GPUs (NVLink) failed", 79: "the GPU has fallen off the bus",
    94: "memory failed, and one program alone is hurt", 95: "memory failed, and any program may be hurt",
    109: "the GPU did not change from one program to the next", 119: "the GPU's own processor (GSP) does not answer",
    120: "the GPU's own processor (GSP) failed", 140: "memory failed, and it cannot be told what it held",
    143: "the GPU could not be set up", 154: "the driver says what is to be done next",
}  # fmt: skip


@dataclass(frozen=True)
class Xid:
    """One error: `at` in seconds of CLOCK_BOOTTIME, the GPU's address on PCI without its function."""

    at: float
    address: str
    number: int
    text: str = ""

    @property
    def action(self) -> Action:
        """What it asks for."""
        if self.number != RECOVERY_CHANGED:
            return ACTIONS.get(self.number, Action.UNKNOWN)
        told = _RECOVERY.search(self.text)
        return RECOVERIES.get(int(told["code"], 16), Action.SUPPORT) if told else Action.SUPPORT

    @property
    def meaning(self) -> str:
        """The error in words, as far as there are any."""
        return MEANINGS.get(self.number, self.text[:LONGEST_TEXT] or "no description")


def parse(line: str, at: float) -> Xid | None:
    """The error that a line of the kernel's log tells of, if it does."""
    found = _LINE.search(line)
    if found is None:
        return None
    text = "".join(letter for letter in found["text"][: 2 * LONGEST_TEXT] if letter.isprintable())
    return Xid(at, found["address"].lower(), int(found["number"]), text.strip())
