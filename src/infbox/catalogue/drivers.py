"""NVIDIA's drivers: which GPUs a branch drives, with which kernel modules, and what its packages are called.

Sources:

* GPUs and modules: NVIDIA, "NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules" (2024), and the chapter
  "Kernel Modules" of its Driver Installation Guide: Turing and newer take both kinds, Blackwell the open ones alone,
  Volta and older the proprietary ones alone. 580 is the last branch for Volta and older (NVIDIA, "UNIX graphics feature
  deprecation schedule"), 570 the first for Blackwell.
* Packages: Driver Installation Guide, the chapters "Debian" and "Ubuntu", each "Compute-only System", and "Recent
  Updates" for the names without a branch from 590 on. nvidia-smi and nvidia-persistenced are packages of their own
  there or not, by distribution and branch: lists of the repositories for 580 and 610, as other projects install them.
* The Fabric Manager is `nvidia-fabricmanager-BRANCH` up to 575 and `nvidia-fabricmanager` from 580 on.
* Debian's packages need some from Debian's own `contrib`: Driver Installation Guide, "Debian", its first steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from infbox.catalogue.gpus import gpus_by_pci

OPEN, PROPRIETARY = "open", "proprietary"
FABRIC_MANAGER = "nvidia-fabricmanager"
# Up to here the names of Ubuntu's packages have the branch in them.
LAST_NAMED_BRANCH = 580
# What the driver consists of beyond the packages that are asked for; all of one version.
FAMILY = ("*nvidia*", "libcuda1", "libcudadebugger1", "libnvcuvid1", "cuda-drivers*")


@dataclass(frozen=True)
class Generation:
    """GPUs up to those of the next compute capability in the list; `last`: the last branch for them, 0 if none is."""

    name: str
    capability: float
    first: int
    last: int
    modules: frozenset[str]


GENERATIONS = (
    Generation("Blackwell", 10.0, 570, 0, frozenset({OPEN})),
    Generation("Turing to Hopper", 7.5, 525, 0, frozenset({OPEN, PROPRIETARY})),
    Generation("Volta and older", 0.0, 390, 580, frozenset({PROPRIETARY})),
)


@dataclass(frozen=True)
class Repository:
    """NVIDIA's packages for one release of a distribution, and the key that signs them."""

    name: str
    key_file: str = "3bf863cc.pub"
    fingerprint: str = "EB693B3035CD5710E231E123A4B469963BF863CC"


REPOSITORIES = {
    ("debian", "12"): Repository("debian12"),
    ("debian", "13"): Repository("debian13", "8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
    ("ubuntu", "22.04"): Repository("ubuntu2204"),
    ("ubuntu", "24.04"): Repository("ubuntu2404"),
}
# What NVIDIA calls dpkg's architectures.
ARCHITECTURES = {"amd64": "x86_64", "arm64": "sbsa"}


@dataclass(frozen=True)
class Packages:
    """What makes a driver. `needed`: of each group the first that the repository has; `welcome`: those that it has."""

    needed: tuple[tuple[str, ...], ...]
    welcome: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(name for group in self.needed for name in group), *self.welcome]))


def generation(device: str) -> Generation | None:
    """The generation of a GPU by its device id on PCI; None if the catalogue does not know it."""
    known = gpus_by_pci().get(device)
    return next((each for each in GENERATIONS if known and known.compute_capability >= each.capability), None)


def modules_for(devices: Iterable[str]) -> frozenset[str]:
    """The kinds of kernel modules that drive all of these GPUs, as far as they are known."""
    kinds = frozenset({OPEN, PROPRIETARY})
    for found in filter(None, map(generation, devices)):
        kinds &= found.modules
    return kinds


def packages(distribution: str, branch: int, modules: str, *, fabric: bool) -> Packages:
    """The driver without anything for a screen; `fabric`: with the Fabric Manager."""
    manager = ((FABRIC_MANAGER, f"{FABRIC_MANAGER}-{branch}"),) if fabric else ()
    if distribution == "debian":
        kernel = "nvidia-kernel-open-dkms" if modules == OPEN else "nvidia-kernel-dkms"
        needed = (("nvidia-driver-cuda",), (kernel,), ("nvidia-persistenced",))
        return Packages((*needed, *manager), ("nvidia-modprobe",))
    if branch > LAST_NAMED_BRANCH:
        kernel = "nvidia-dkms-open" if modules == OPEN else "nvidia-dkms"
        needed = (("libnvidia-compute",), (kernel,), ("nvidia-persistenced",))
        return Packages((*needed, *manager), ("nvidia-utils", "nvidia-compute-utils", "nvidia-modprobe"))
    kernel = f"nvidia-dkms-{branch}-open" if modules == OPEN else f"nvidia-dkms-{branch}"
    tools = f"nvidia-compute-utils-{branch}"
    needed = ((f"libnvidia-compute-{branch}",), (kernel,), (f"nvidia-utils-{branch}",), ("nvidia-persistenced", tools))
    return Packages((*needed, *manager), (tools, "nvidia-modprobe"))
