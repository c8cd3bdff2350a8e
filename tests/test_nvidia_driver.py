"""What role `nvidia_driver` decides: whose driver is there, which one is installed, when a reboot is due.

No machine here has a GPU: facts are those that `ansible/plugins/modules/infbox_nvidia_driver.py` gives, written by
hand, and the index of packages is what NVIDIA's repositories are known to have. molecule/gpu runs the role itself.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from infbox import gpus
from infbox.catalogue.drivers import OPEN, PROPRIETARY, generation, modules_for, packages
from infbox.errors import DriverError
from infbox.nvidia_driver import (
    LEAVE,
    MANAGE,
    NOTHING,
    Target,
    Wish,
    contrib,
    fault,
    judge,
    numbers,
    reboot_reason,
    recorded,
    upstream,
)
from infbox.nvidia_packages import Plan, names_to_look_up, plan

ROOT = Path(__file__).resolve().parents[1]
URL = "https://developer.download.nvidia.com/compute/cuda/repos"
DEBIAN = f"{URL}/debian12/x86_64"
H100, V100, B200, L40S, UNKNOWN = "2330", "1db5", "2901", "26b9", "ffff"
KERNEL = "6.1.0-28-amd64"
HEADERS = {f"linux-headers-{KERNEL}": [("6.1.119-1", "http://deb.debian.org/debian")]}
DEBIAN_NAMES = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced", "nvidia-modprobe")
FABRIC = (*DEBIAN_NAMES, "nvidia-fabricmanager")


def wish(branch: str = "580", version: str = "", least: str = "580.65.06") -> Wish:
    return Wish(branch, version, least, f"{URL}/")


def gpu(device: str = H100, at: int = 1, driver: str = "", **told: Any) -> dict[str, Any]:
    return {"address": f"0000:{at:02x}:00.0", "device": device, "driver": driver, **told}


def of(*found: dict[str, Any], nvswitches: int = 0, driver_fault: str = "", **more: Any) -> dict[str, Any]:
    """A machine's facts, without a driver unless one is given."""
    return {
        "machine": {
            "ram_gib": 64.0,
            "gpus": list(found or [gpu()]),
            "nvswitches": nvswitches,
            "driver_fault": driver_fault,
        },
        "os": {"id": "debian", "version_id": "12", "codename": "bookworm"},
        "architecture": "amd64",
        "kernel": KERNEL,
        "headers": False,
        "loaded": "",
        "on_disk": "",
        "smi": "",
        "installed": {},
        "services": {},
        "record": {},
        "sources": [],
        "secure_boot": False,
    } | more


def working(version: str, count: int = 1) -> list[dict[str, Any]]:
    return [gpu(at=at, driver="nvidia", driver_version=version, memory_mib=81559) for at in range(count)]


def repository(*versions: str, names: tuple[str, ...] = DEBIAN_NAMES, url: str = DEBIAN) -> dict[str, Any]:
    """An index in which each package has each version."""
    return HEADERS | {name: [(f"{version}-1", url) for version in versions] for name in names}


def target(version: str = "580.95.05", names: tuple[str, ...] = DEBIAN_NAMES) -> Target:
    return Target(version, dict.fromkeys(names, f"{version}-1"))


def managed(version: str = "580.95.05", good: str = "", **more: Any) -> dict[str, Any]:
    """A machine on which the role installed a driver that works."""
    wanted = target(version)
    facts = {"loaded": version, "on_disk": version, "installed": dict(wanted.packages)}
    kept = recorded(wanted, target(good) if good else None)
    return of(*working(version), **(facts | {"record": kept} | more))


def refusal(facts: dict[str, Any], wished: Wish | None = None, index: dict[str, Any] | None = None) -> str:
    """What the machine is refused with."""
    with pytest.raises(DriverError) as wrong:
        _ = judge(facts, wished or wish()) if index is None else plan(facts, wished or wish(), index)
    assert wrong.value.hint
    return str(wrong.value)


# --- what is there


def test_without_a_gpu_nothing_is_done() -> None:
    facts = of()
    facts["machine"]["gpus"] = []
    assert judge(facts, wish()).action == NOTHING


def test_a_fresh_machine_gets_a_driver_from_the_repository_of_its_release() -> None:
    course = judge(of(), wish())
    assert (course.action, course.asks) == (MANAGE, True)
    assert course.repository["url"] == DEBIAN
    assert course.repository["fingerprint"].endswith("3BF863CC")
    trixie = judge(of(os={"id": "debian", "version_id": "13", "codename": "trixie"}), wish())
    assert trixie.repository["key_file"] == "8793F200.pub"
    arm = judge(of(os={"id": "ubuntu", "version_id": "24.04", "codename": "noble"}, architecture="arm64"), wish())
    assert arm.repository["url"] == f"{URL}/ubuntu2404/sbsa"
    assert "no repository of NVIDIA's is known for debian 11" in refusal(
        of(os={"id": "debian", "version_id": "11", "codename": "bullseye"})
    )


@pytest.mark.parametrize("there", [{"loaded": "580.95.05"}, {"loaded": "580.95.05", "smi": "/usr/bin/nvidia-smi"}])
def test_a_driver_of_others_that_works_is_left_alone(there: dict[str, str]) -> None:
    course = judge(of(*working("580.95.05", 8), **there), wish())
    assert course.action == LEAVE
    assert course.said == "the NVIDIA driver 580.95.05 of this machine was not installed by infbox and is left alone"


def test_a_driver_of_others_is_refused_where_it_is_too_old_or_does_not_work() -> None:
    told = refusal(of(*working("535.183.01"), loaded="535.183.01"))
    assert "535.183.01 of this machine was not installed by infbox, and it is older than the engine needs" in told
    assert "apt-get purge" in told
    assert "nvidia-uninstall" in told
    told = refusal(of(gpu(driver="nouveau"), on_disk="580.95.05"))
    assert "does not work: the GPU at 0000:01:00.0 has nouveau" in told
    told = refusal(of(smi="/usr/bin/nvidia-smi"))
    assert f"/usr/bin/nvidia-smi is there, but no NVIDIA driver for the running kernel {KERNEL}" in told


def test_a_record_whose_packages_are_gone_makes_no_driver_ours() -> None:
    facts = of(*working("580.95.05"), loaded="580.95.05", record=recorded(target(), None))
    assert judge(facts, wish()).action == LEAVE
    assert judge(of(record=recorded(target(), None)), wish()).asks


def test_what_is_installed_and_works_asks_nobody() -> None:
    course = judge(managed(), wish())
    assert (course.action, course.asks, course.notes) == (MANAGE, False, ())
    assert plan(managed(), wish(), {}) == Plan(target())


@pytest.mark.parametrize(
    ("facts", "wished"),
    [
        (managed(), wish(version="580.105.08")),
        (managed(), wish("590")),
        (managed(on_disk=""), wish()),
        (managed(installed={"nvidia-driver-cuda": "580.95.05-1"}), wish()),
    ],
    ids=["another version", "another branch", "another kernel", "half installed"],
)
def test_what_differs_from_the_wish_asks_the_repository(facts: dict[str, Any], wished: Wish) -> None:
    assert judge(facts, wished).asks


# --- what may be


@pytest.mark.parametrize(
    ("facts", "wished", "said"),
    [
        (of(), wish("latest"), "`nvidia_driver_branch` is 'latest'"),
        (of(), wish("580", "570.172.08"), "which is not of `nvidia_driver_branch` 580"),
        (of(), wish("570"), "`nvidia_driver_branch` 570 is older than the engine needs: 580.65.06"),
        (of(), wish("580", "580.10.01"), "`nvidia_driver_version` 580.10.01 is older than the engine needs"),
        (of(gpu(V100)), wish("590"), "drives no V100-32: 580 was the last"),
        (of(gpu(B200)), wish("560", least="525.60"), "drives no B200: 570 was the first"),
        (of(gpu(V100), gpu(B200)), wish(), "no driver has kernel modules for B200 and V100-32 at once"),
        (managed("580.95.05"), wish(least="580.105.08"), "driver 580.95.05 is older than the engine needs: 580.105.08"),
    ],
)
def test_a_driver_that_cannot_be_is_refused_before_anything_is_installed(
    facts: dict[str, Any], wished: Wish, said: str
) -> None:
    assert said in refusal(facts, wished)


def test_generations_decide_on_modules() -> None:
    assert modules_for([H100]) == {OPEN, PROPRIETARY}
    assert modules_for([B200]) == {OPEN}
    assert modules_for([V100]) == modules_for([V100, H100]) == modules_for([V100, UNKNOWN]) == {PROPRIETARY}
    assert generation(UNKNOWN) is None
    blackwell = generation(B200)
    assert blackwell
    assert blackwell.name == "Blackwell"


@pytest.mark.parametrize(
    ("distribution", "branch", "modules", "expected"),
    [
        ("debian", 580, OPEN, {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"}),
        ("debian", 580, PROPRIETARY, {"nvidia-driver-cuda", "nvidia-kernel-dkms", "nvidia-persistenced"}),
        ("ubuntu", 580, OPEN, {"libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580"}),
        ("ubuntu", 580, PROPRIETARY, {"libnvidia-compute-580", "nvidia-dkms-580", "nvidia-utils-580"}),
        ("ubuntu", 590, OPEN, {"libnvidia-compute", "nvidia-dkms-open", "nvidia-persistenced"}),
    ],
)
def test_packages_are_called_by_distribution_branch_and_modules(
    distribution: str, branch: int, modules: str, expected: set[str]
) -> None:
    alone = {group[0] for group in packages(distribution, branch, modules, fabric=False).needed}
    assert expected <= alone | {"nvidia-persistenced"}
    assert alone - expected <= {"nvidia-persistenced"}
    fabric = packages(distribution, branch, modules, fabric=True).needed[-1]
    assert fabric == ("nvidia-fabricmanager", f"nvidia-fabricmanager-{branch}")


# --- what is installed


def test_the_newest_version_of_the_branch_is_taken_and_then_stays() -> None:
    index = repository("575.57.08", "580.65.06", "580.105.08", "580.95.05", "590.44.01")
    chosen = plan(of(), wish(), index)
    assert chosen.target.version == "580.105.08"
    assert chosen.install[0] == f"linux-headers-{KERNEL}"
    assert "nvidia-kernel-open-dkms=580.105.08-1" in chosen.install
    assert chosen.notes == chosen.remove == ()
    assert "Pin: version 580.105.08-*\nPin-Priority: 1001" in chosen.target.pin
    assert plan(managed(), wish(), index).target == target()
    half = managed(installed={"nvidia-driver-cuda": "580.95.05-1"})
    assert plan(half, wish(), index).target.version == "580.95.05"
    assert plan(managed(), wish(version="580.105.08"), index).target.version == "580.105.08"
    assert plan(managed(), wish(version="580.65.06"), index).target.version == "580.65.06"
    assert plan(managed(), wish("590"), index).target.version == "590.44.01"


def test_only_nvidias_own_repository_counts() -> None:
    index = repository("580.95.05", url="http://deb.debian.org/debian")
    assert f"{DEBIAN} has no driver of branch 580" in refusal(of(), index=index)


def test_a_fabric_manager_of_another_version_is_refused() -> None:
    facts = of(*[gpu(at=at) for at in range(8)], nvswitches=4)
    index = repository("580.95.05", "580.105.08") | {"nvidia-fabricmanager": [("580.95.05-1", DEBIAN)]}
    told = refusal(facts, wish(version="580.105.08"), index)
    assert (
        "has no nvidia-fabricmanager of driver 580.105.08; NVSwitches need the Fabric Manager in the driver's" in told
    )
    assert "hint: set `nvidia_driver_version` to one that is whole there: 580.95.05" in told
    chosen = plan(facts, wish(), index)
    assert chosen.target.version == "580.95.05"
    assert chosen.target.services == ["nvidia-persistenced", "nvidia-fabricmanager"]
    assert "580.105.08 lacks nvidia-fabricmanager" in chosen.notes[0]
    named = repository("580.95.05") | {"nvidia-fabricmanager-580": [("580.95.05-1", DEBIAN)]}
    assert "nvidia-fabricmanager-580=580.95.05-1" in plan(facts, wish(), named).install
    assert "nvidia-fabricmanager of driver 580.95.05" in refusal(facts, index=repository("580.95.05"))


def test_a_version_that_the_repository_has_not_is_refused_with_those_that_it_has() -> None:
    told = refusal(of(), wish(version="580.99.01"), repository("580.95.05", "580.105.08"))
    assert "whole there: 580.95.05, 580.105.08" in told
    assert "the engine needs 580.200.01" in refusal(of(), wish(least="580.200.01"), repository("580.95.05"))


def test_ubuntus_packages_are_found_whichever_has_the_daemon() -> None:
    os, url = {"id": "ubuntu", "version_id": "24.04", "codename": "noble"}, f"{URL}/ubuntu2404/x86_64"
    names = ("libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580", "nvidia-compute-utils-580")
    index = HEADERS | {name: [("580.95.05-0ubuntu1", url)] for name in names}
    assert set(plan(of(os=os), wish(), index).target.packages) == set(names)
    index["nvidia-persistenced"] = [("580.95.05-0ubuntu1", url)]
    assert set(plan(of(os=os), wish(), index).target.packages) == {*names, "nvidia-persistenced"}


def test_another_branch_takes_away_what_it_calls_otherwise() -> None:
    os, url = {"id": "ubuntu", "version_id": "24.04", "codename": "noble"}, f"{URL}/ubuntu2404/x86_64"
    names = ("libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580", "nvidia-persistenced")
    facts = managed(os=os, installed=dict(target(names=names).packages), record=recorded(target(names=names), None))
    new = ("libnvidia-compute", "nvidia-dkms-open", "nvidia-persistenced")
    index = HEADERS | {name: [("590.44.01-1ubuntu1", url)] for name in new}
    removed = plan(facts, wish("590"), index).remove
    assert removed == ("libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580")


def test_headers_are_those_of_the_running_kernel_and_of_the_next() -> None:
    installed = {f"linux-image-{KERNEL}": "1", "linux-image-cloud-amd64": "1", "linux-image-extra-virtual": "1"}
    index = repository("580.95.05") | {"linux-headers-cloud-amd64": [("6.1", "http://deb.debian.org/debian")]}
    assert "linux-headers-extra-virtual" in names_to_look_up(of(installed=installed), wish())
    headers = plan(of(installed=installed), wish(), index).headers
    assert headers == (f"linux-headers-{KERNEL}", "linux-headers-cloud-amd64")
    assert plan(of(headers=True), wish(), repository("580.95.05")).headers == ()
    told = refusal(of(kernel="6.1.0-9-amd64"), index=repository("580.95.05"))
    assert "no repository has linux-headers-6.1.0-9-amd64" in told
    assert "apt-get full-upgrade" in told


def test_contrib_is_added_on_debian_where_main_comes_from() -> None:
    main = {"uri": "http://mirror/debian", "release": "stable", "codename": "bookworm", "component": "main"}
    facts = of(sources=[main | {"signed_by": " /usr/share/keyrings/debian-archive-keyring.gpg"}])
    assert contrib(facts).splitlines() == [
        "Types: deb",
        "URIs: http://mirror/debian",
        "Suites: stable",
        "Components: contrib",
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
    ]
    facts["sources"].append(main | {"component": "contrib", "signed_by": ""})
    assert contrib(facts) == ""
    assert contrib(of()) == ""


# --- what is said, and what works


def test_secure_boot_and_the_switches_of_blackwell_are_said_before() -> None:
    (note,) = judge(of(secure_boot=True), wish()).notes
    assert "mokutil --import /var/lib/dkms/mok.pub" in note
    (note,) = judge(of(gpu(B200)), wish()).notes
    assert "nvlsm" in note
    assert judge(managed(secure_boot=True), wish()).notes == ()


def test_a_reboot_is_due_only_where_loading_cannot_help() -> None:
    assert reboot_reason(of(), "580.95.05") == ""
    assert reboot_reason(managed(), "580.95.05") == ""
    assert reboot_reason(managed(), "580.105.08") == "the kernel runs driver 580.95.05"
    assert "nouveau, has the GPUs" in reboot_reason(of(gpu(driver="nouveau")), "580.95.05")


def test_a_driver_works_when_every_gpu_of_pci_answers() -> None:
    assert fault(managed(), "580.95.05") == ""
    assert fault(of(driver_fault="nvidia-smi: no"), "580.95.05") == "nvidia-smi: no"
    assert fault(of(), "580.95.05") == "the GPU at 0000:01:00.0 has no driver"
    silent = of(*working("580.95.05", 7), gpu(at=9, driver="nvidia"))
    assert fault(silent, "580.95.05") == "nvidia-smi does not list the GPU at 0000:09:00.0"
    assert fault(managed(), "580.105.08") == "nvidia-smi speaks of driver 580.95.05"
    facts = managed(services={"nvidia-fabricmanager": "failed"})
    assert "nvidia-fabricmanager does not run" in fault(facts, "580.95.05", ["nvidia-fabricmanager"])


def test_versions_are_compared_as_numbers_and_without_the_distributions_part() -> None:
    assert numbers("580.105.08") > numbers("580.95.05")
    assert upstream("580.65.06-0ubuntu1") == upstream("1:580.65.06-1") == "580.65.06"


def test_the_module_reads_keys_of_apt_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on the box, where nothing of infbox is: of `ansible.module_utils` it gets the shared file alone."""
    name = "ansible.module_utils.infbox_gpus"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    vars(sys.modules[name])["machine_facts"] = gpus.machine_facts
    spec = importlib.util.spec_from_file_location("module", ROOT / "ansible/plugins/modules/infbox_nvidia_driver.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    deb822 = "URIs: http://a/debian\nSigned-By: /a.gpg\n\nURIs: http://b/debian\nSigned-By:\n x\n y\n"
    assert module.signed_by(deb822, "http://a/debian/") == " /a.gpg"
    assert module.signed_by(deb822, "http://b/debian") == "\n x\n y"
    assert module.signed_by("deb [arch=amd64 signed-by=/c.gpg] http://c/debian bookworm main", "http://c/debian") == (
        " /c.gpg"
    )
    assert module.signed_by("deb http://d/debian bookworm main", "http://d/debian") == ""
