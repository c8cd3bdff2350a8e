"""Which version of NVIDIA's driver, and which packages: out of what NVIDIA's repository has. Decisions alone.

What is wished for, and what is there already, is `infbox.nvidia_driver`'; packages' names `infbox.catalogue.drivers`'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infbox.catalogue.drivers import FABRIC_MANAGER, Packages
from infbox.errors import DriverError
from infbox.nvidia_driver import (
    AGAIN,
    PERSISTENCE,
    Facts,
    Target,
    Wish,
    branch_of,
    is_complete,
    numbers,
    repository,
    staying,
    target_of,
    upstream,
    wanted_packages,
)

# For each package, the versions that apt knows, and the address of the repository that each comes from.
Index = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Plan:
    """What to install, with what the kernel's modules are built with, and what of an earlier branch goes."""

    target: Target
    headers: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def install(self) -> list[str]:
        """As apt is told it; the headers come first, or no module is built."""
        return [*self.headers, *(f"{name}={version}" for name, version in self.target.packages.items())]


def names_to_look_up(facts: Facts, wish: Wish) -> list[str]:
    """The packages whose versions a plan needs to know."""
    return [*wanted_packages(facts, wish).names, *_headers(facts)]


def plan(facts: Facts, wish: Wish, index: Index) -> Plan:
    """The newest version of the branch that the repository has as a whole, or the very one that is wished for.

    Raises:
        DriverError: there is none; says what is missing of it.
    """
    kept = target_of(facts["record"].get("wanted"))
    if kept and is_complete(facts, wish):
        return Plan(kept)
    wanted, url = wanted_packages(facts, wish), repository(facts, wish)["url"]
    there = {name: _offered(index, name, url) for name in wanted.names}
    versions = {version for offered in there.values() for version in offered if branch_of(version) == wish.branch}
    ordered = sorted(versions, key=numbers)
    whole = [version for version in ordered if not _lacks(wanted, there, version)]
    asked = wish.version or staying(facts, wish)
    if not whole or (asked and asked not in whole):
        raise _nothing_whole(wanted, there, asked or (ordered[-1] if ordered else ""), whole, wish, url)
    version = asked or whole[-1]
    if numbers(version) < numbers(wish.least):
        raise DriverError(
            f"{url} has {version} as the newest whole driver of branch {wish.branch}, and the engine needs "
            f"{wish.least} (`nvidia_driver_least`)",
            "set `nvidia_driver_branch` to a newer one",
        )
    chosen = {name: there[name][version] for name in _first_of_each(wanted, there, version)}
    fabric = [FABRIC_MANAGER] if any(name.startswith(FABRIC_MANAGER) for name in chosen) else []
    headers = _headers(facts)
    if absent := [name for name in headers if name.endswith(facts["kernel"]) and not index.get(name)]:
        raise DriverError(
            f"no repository has {absent[0]}, with which the driver's modules are built for the running kernel",
            f"bring the kernel up to date: `apt-get update && apt-get full-upgrade`, reboot, {AGAIN}",
        )
    before = [name for part in ("wanted", "good") if (was := target_of(facts["record"].get(part)))
              for name in was.packages]  # fmt: skip
    remove = sorted({name for name in before if name in facts["installed"] and name not in chosen})
    notes = [f"{newer} lacks {', '.join(_lacks(wanted, there, newer))} in {url}" for newer in ordered
             if not asked and numbers(newer) > numbers(version)]  # fmt: skip
    return Plan(
        Target(version, chosen, [PERSISTENCE, *fabric]),
        tuple(name for name in headers if index.get(name)),
        tuple(remove),
        tuple(f"driver {version} is taken: {note}" for note in notes),
    )


def _offered(index: Index, name: str, url: str) -> dict[str, str]:
    """What the repository has of a package: the driver's version → the package's own, the newest revision of each."""
    found = [version for version, source in index.get(name, ()) if source.rstrip("/").startswith(url)]
    return {upstream(version): version for version in sorted(found, key=numbers)}


def _first_of_each(wanted: Packages, there: Mapping[str, Mapping[str, str]], version: str) -> list[str]:
    first = [next(name for name in group if version in there[name]) for group in wanted.needed]
    return list(dict.fromkeys([*first, *(name for name in wanted.welcome if version in there[name])]))


def _lacks(wanted: Packages, there: Mapping[str, Mapping[str, str]], version: str) -> list[str]:
    return [group[0] for group in wanted.needed if not any(version in there[name] for name in group)]


def _nothing_whole(
    wanted: Packages, there: Mapping[str, Mapping[str, str]], version: str, whole: Sequence[str], wish: Wish, url: str
) -> DriverError:
    if not version:
        hint = "is `nvidia_driver_branch` a branch of NVIDIA's, and `nvidia_driver_repository_url` its repository?"
        return DriverError(f"{url} has no driver of branch {wish.branch}", hint)
    why = f"{url} has no {' and no '.join(_lacks(wanted, there, version))} of driver {version}"
    if FABRIC_MANAGER in _lacks(wanted, there, version):
        why += "; NVSwitches need the Fabric Manager in the driver's very version"
    if whole:
        return DriverError(why, f"set `nvidia_driver_version` to one that is whole there: {', '.join(whole)}")
    return DriverError(why, f"no version of branch {wish.branch} is whole there: set another `nvidia_driver_branch`")


def _headers(facts: Facts) -> list[str]:
    """What modules are built with: for the running kernel, and for those that later come by its metapackage."""
    kernels = [name.removeprefix("linux-image-") for name in facts["installed"] if name.startswith("linux-image-")]
    later = [f"linux-headers-{name}" for name in kernels if not name[0].isdigit() and not name.startswith("unsigned")]
    return [*([] if facts["headers"] else [f"linux-headers-{facts['kernel']}"]), *sorted(later)]
