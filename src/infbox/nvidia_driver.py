"""NVIDIA's driver on a machine: whose it is, whether it may be what is wished for, and whether it works.

Decisions alone, for the action plugin `infbox_nvidia_driver`: its module looks at the machine, and role
`nvidia_driver` does what is decided. Which version and which packages, is `infbox.nvidia_packages`'; what a branch
drives, and what its packages are called, `infbox.catalogue.drivers`'.

A machine's facts, as that module gives them: `machine` (`infbox.gpus`), `os` and `architecture`, the running `kernel`
and whether its `headers` are there, the driver's version that is `loaded` and `on_disk` for that kernel, `smi` (the
path of nvidia-smi), versions of `installed` packages, states of `services`, the `record` of what the role did, apt's
`sources`, and whether `secure_boot` is on.

A target is what a machine is brought to: a version, its packages with their full versions, and its services. The
record holds two: the one that is wanted, and the last that worked (`good`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from infbox.catalogue.drivers import (
    ARCHITECTURES,
    FABRIC_MANAGER,
    FAMILY,
    OPEN,
    PROPRIETARY,
    REPOSITORIES,
    Packages,
    generation,
    modules_for,
    packages,
)
from infbox.catalogue.gpus import gpus_by_pci
from infbox.errors import DriverError

Facts = Mapping[str, Any]
NOTHING, LEAVE, MANAGE = "nothing", "leave", "manage"
PERSISTENCE = "nvidia-persistenced"
# Where a distribution keeps the key that it signs modules with which were built on the machine.
SIGNING_KEYS = {"debian": "/var/lib/dkms/mok.pub", "ubuntu": "/var/lib/shim-signed/mok/MOK.der"}
AGAIN = "then run the same command again"


@dataclass(frozen=True)
class Wish:
    """The role's variables: a branch, a version of it or an empty string, and the least that the engine needs."""

    branch: str
    version: str
    least: str
    repository_url: str
    repository_key: str = ""


@dataclass(frozen=True)
class Target:
    """A driver: its version, its packages with theirs, and the services that belong to it."""

    version: str
    packages: Mapping[str, str]
    services: Sequence[str] = (PERSISTENCE,)

    @property
    def pin(self) -> str:
        """apt's preferences that hold the whole family at this version, also against a newer one."""
        return f"Package: {' '.join(FAMILY)}\nPin: version {self.version}-*\nPin-Priority: 1001\n"


@dataclass(frozen=True)
class Course:
    """What the role does: nothing, leave a driver alone, or manage one. `asks`: NVIDIA's repository has to be read."""

    action: str
    said: str = ""
    asks: bool = False
    repository: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


def numbers(version: str) -> tuple[int, ...]:
    """580.65.06 → (580, 65, 6), to compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def upstream(package_version: str) -> str:
    """A package's version without the distribution's part: 580.65.06-1ubuntu1 → 580.65.06."""
    return package_version.rpartition(":")[2].rpartition("-")[0]


def branch_of(version: str) -> str:
    return version.partition(".")[0]


def target_of(kept: Mapping[str, Any] | None) -> Target | None:
    """A target as the record keeps it."""
    return Target(**kept) if kept else None


def recorded(target: Target, good: Target | None) -> dict[str, Any]:
    """The record, as the module writes it."""
    return {"wanted": asdict(target), "good": asdict(good) if good else None}


def is_ours(facts: Facts) -> bool:
    """Whether something of the driver that is there was installed by the role."""
    kept = [target_of(facts["record"].get(name)) for name in ("wanted", "good")]
    return any(name in facts["installed"] for target in kept if target for name in target.packages)


def judge(facts: Facts, wish: Wish) -> Course:
    """What to do with this machine, whose preset has GPUs.

    Raises:
        DriverError: a driver that is there cannot serve the engine, or the one that is wished for cannot be.
    """
    gpus = facts["machine"]["gpus"]
    if not gpus:
        return Course(NOTHING, "no NVIDIA GPU is here")
    if not is_ours(facts) and (facts["loaded"] or facts["on_disk"] or facts["smi"]):
        return _leave(facts, wish)
    _check_wish(wish, [gpu["device"] for gpu in gpus])
    asks = not is_complete(facts, wish)
    notes = [*secure_boot(facts), *_fabric(facts)] if asks else []
    return Course(MANAGE, "", asks, repository(facts, wish), tuple(notes))


def _leave(facts: Facts, wish: Wish) -> Course:
    version = facts["loaded"] or facts["on_disk"]
    if not version:
        raise DriverError(
            f"{facts['smi']} is there, but no NVIDIA driver for the running kernel {facts['kernel']}; infbox installed "
            "neither",
            f"mend that driver the way it came, or remove it so that infbox installs one; {AGAIN}",
        )
    alien = f"the NVIDIA driver {version} of this machine was not installed by infbox"
    if numbers(version) < numbers(wish.least):
        raise DriverError(
            f"{alien}, and it is older than the engine needs: {wish.least} (`nvidia_driver_least`)",
            f"upgrade it the way it came; or remove it (packages: `apt-get purge '*nvidia*'`, NVIDIA's installer: "
            f"`nvidia-uninstall`) and reboot, so that infbox installs one; {AGAIN}",
        )
    if wrong := fault(facts, version):
        raise DriverError(f"{alien}, and it does not work: {wrong}", f"mend it the way it came; {AGAIN}")
    return Course(LEAVE, f"{alien} and is left alone")


def _check_wish(wish: Wish, devices: Sequence[str]) -> None:
    if not wish.branch.isdecimal():
        raise DriverError(f"`nvidia_driver_branch` is {wish.branch!r}", "it is a branch's number, as in 580")
    if wish.version and branch_of(wish.version) != wish.branch:
        raise DriverError(
            f"`nvidia_driver_version` is {wish.version}, which is not of `nvidia_driver_branch` {wish.branch}",
            f"set `nvidia_driver_branch` to {branch_of(wish.version)!r} too",
        )
    named = f"`nvidia_driver_version` {wish.version}" if wish.version else f"`nvidia_driver_branch` {wish.branch}"
    least = numbers(wish.least)
    if numbers(wish.version or wish.branch) < (least if wish.version else least[:1]):
        raise DriverError(
            f"{named} is older than the engine needs: {wish.least} (`nvidia_driver_least`)",
            f"set `nvidia_driver_branch` to {branch_of(wish.least)!r} or a newer one",
        )
    branch = int(wish.branch)
    for device in devices:
        found = generation(device)
        if found and found.last and branch > found.last:
            hint = f"set `nvidia_driver_branch` to '{found.last}', if the engine takes it"
            raise DriverError(f"{named} drives no {gpus_by_pci()[device].name}: {found.last} was the last", hint)
        if found and branch < found.first:
            hint = f"set `nvidia_driver_branch` to '{found.first}' or a newer one"
            raise DriverError(f"{named} drives no {gpus_by_pci()[device].name}: {found.first} was the first", hint)
    if not modules_for(devices):
        names = sorted({gpus_by_pci()[device].name for device in devices if generation(device)})
        raise DriverError(
            f"no driver has kernel modules for {' and '.join(names)} at once: the newest need the open ones, Volta and "
            "older the proprietary ones",
            "take the older GPUs out",
        )


def staying(facts: Facts, wish: Wish) -> str:
    """The version that was installed and stays; empty if another is wished for, or none is there.

    A newer one in the repository is no reason to change it: an upgrade is the operator's word.
    """
    kept = target_of(facts["record"].get("wanted"))
    if not kept or not is_ours(facts):
        return ""
    if wish.version or branch_of(kept.version) != wish.branch:
        return kept.version if kept.version == wish.version else ""
    if numbers(kept.version) < numbers(wish.least):
        raise DriverError(
            f"the NVIDIA driver {kept.version} is older than the engine needs: {wish.least} (`nvidia_driver_least`)",
            "an upgrade happens only if you ask for it: set `nvidia_driver_version` to that one or a newer one",
        )
    return kept.version


def is_complete(facts: Facts, wish: Wish) -> bool:
    """Whether what stays is installed, built for the running kernel, and still all that is needed."""
    kept = target_of(facts["record"].get("wanted"))
    if not kept or kept.version != staying(facts, wish) or kept.version != facts["on_disk"]:
        return False
    if any(facts["installed"].get(name) != version for name, version in kept.packages.items()):
        return False
    return all(any(name in kept.packages for name in group) for group in wanted_packages(facts, wish).needed)


def wanted_packages(facts: Facts, wish: Wish) -> Packages:
    kinds = modules_for([gpu["device"] for gpu in facts["machine"]["gpus"]])
    modules = OPEN if OPEN in kinds else PROPRIETARY
    return packages(facts["os"]["id"], int(wish.branch), modules, fabric=facts["machine"]["nvswitches"] > 0)


def repository(facts: Facts, wish: Wish) -> dict[str, str]:
    system, architecture = facts["os"], ARCHITECTURES.get(facts["architecture"])
    known = REPOSITORIES.get((system["id"], system["version_id"]))
    if not known or not architecture:
        raise DriverError(
            f"no repository of NVIDIA's is known for {system['id']} {system['version_id']} on {facts['architecture']}",
            f"install a driver of at least {wish.least} yourself, which infbox then leaves alone; {AGAIN}",
        )
    return {
        "url": f"{wish.repository_url.rstrip('/')}/{known.name}/{architecture}",
        "key_file": known.key_file,
        "fingerprint": wish.repository_key or known.fingerprint,
        "contrib": contrib(facts),
    }


def contrib(facts: Facts) -> str:
    """An apt source for Debian's `contrib`, from where the machine has `main`; empty where it needs none."""
    release = [source for source in facts["sources"] if source["codename"] == facts["os"]["codename"]]
    main = next((source for source in release if source["component"] == "main"), None)
    if facts["os"]["id"] != "debian" or not main or any(source["component"] == "contrib" for source in release):
        return ""
    lines = [f"URIs: {main['uri']}", f"Suites: {main['release']}", "Components: contrib"]
    signed = [f"Signed-By:{main['signed_by']}"] if main["signed_by"] else []
    return "\n".join(["Types: deb", *lines, *signed, ""])


def secure_boot(facts: Facts) -> list[str]:
    """What a person has to do where the firmware decides which modules are loaded."""
    if not facts["secure_boot"]:
        return []
    key = SIGNING_KEYS[facts["os"]["id"]]
    return [
        f"Secure Boot is on: the kernel takes the driver's modules only when the firmware knows the key that signs "
        f"them here. Once they are built: `mokutil --import {key}`, reboot, and confirm it on the console; or turn "
        "Secure Boot off."
    ]


def _fabric(facts: Facts) -> list[str]:
    known = {gpus_by_pci().get(gpu["device"]) for gpu in facts["machine"]["gpus"]}
    names = sorted(gpu.name for gpu in known if gpu and gpu.link == "NVLink 5")
    if not names or facts["machine"]["nvswitches"]:
        return []
    return [
        f"the NVSwitches of {' and '.join(names)} are not NVIDIA's devices on PCI. Where there are any, they need the "
        f"Fabric Manager and NVIDIA's subnet manager (packages {FABRIC_MANAGER} and nvlsm), which infbox does not "
        "set up."
    ]


def reboot_reason(facts: Facts, version: str) -> str:
    """Why `version` is not what the kernel runs, where loading it now cannot help; empty if that can."""
    if facts["loaded"] and facts["loaded"] != version:
        return f"the kernel runs driver {facts['loaded']}"
    if any(gpu["driver"] == "nouveau" for gpu in facts["machine"]["gpus"]):
        return "the kernel's own driver, nouveau, has the GPUs"
    return ""


def fault(facts: Facts, version: str, services: Sequence[str] = ()) -> str:
    """Why the driver does not work: a GPU that PCI shows and nvidia-smi does not, say; empty if it works."""
    machine = facts["machine"]
    if machine["driver_fault"]:
        return machine["driver_fault"]
    for gpu in machine["gpus"]:
        if gpu["driver"] != "nvidia":
            return f"the GPU at {gpu['address']} has {gpu['driver'] or 'no driver'}"
        if "driver_version" not in gpu:
            return f"nvidia-smi does not list the GPU at {gpu['address']}"
        if gpu["driver_version"] != version:
            return f"nvidia-smi speaks of driver {gpu['driver_version']}"
    down = [name for name in services if facts["services"].get(name) != "active"]
    return f"{down[0]} does not run: `journalctl --unit {down[0]}`" if down else ""
