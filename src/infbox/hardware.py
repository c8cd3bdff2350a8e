"""Whether a machine is one for its preset: the GPUs and the RAM that it has, through the planner, and their health."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infbox.catalogue.gpus import Gpu, Gpus, gpus_by_pci, parse_gpus
from infbox.errors import InfboxError
from infbox.gpus import SHARED_MEMORY, gpu_faults
from infbox.planner import plan_values, role_defaults
from infbox.preset import load_hierarchy, load_preset
from infbox.variables import Problem

# A machine sold with N GiB shows less: the kernel and the firmware keep some.
KEPT = 0.08
# nvidia-smi's total differs a little between boards and with ECC; a slice of a card is half of it at most.
MEMORY_TOLERANCE = 0.1
# A context that is proposed is a multiple of this.
CONTEXT_STEP = 1024
# So many presets that would fit are named.
TOLD = 3
# Why one GPU may not read another's memory, as nvidia-smi abbreviates it (`nvidia-smi topo -p2p r`).
NO_ACCESS = {"CNS": "the chipset does not support it", "GNS": "the GPU does not support it", "NS": "not supported",
             "TNS": "the topology does not support it", "DR": "disabled in the driver's settings"}  # fmt: skip
# Workers of one engine talk to each other in shared memory: 1 GiB is what NCCL's documentation has containers given.
SHARED_MEMORY_GIB = 1.0


@dataclass(frozen=True)
class Judgement:
    """What is wrong with a machine for its preset, and what is only worth saying."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def found_gpus(facts: Mapping[str, Any]) -> tuple[Gpus, ...]:
    """The GPUs that the catalogue knows, by kind, the most of a kind first."""
    known = (gpus_by_pci().get(gpu["device"]) for gpu in facts["gpus"])
    counted = Counter(gpu.name for gpu in known if gpu)
    return tuple(parse_gpus(f"{count}x{name}") for name, count in counted.most_common())


def describe(facts: Mapping[str, Any]) -> str:
    """A machine in a few words: 2xL40S, driver 580.95.05, 62 GiB of RAM."""
    unknown = [gpu["device"] for gpu in facts["gpus"] if gpu["device"] not in gpus_by_pci()]
    words = [str(gpus) for gpus in found_gpus(facts)]
    words += [f"{count} x an NVIDIA GPU that is not known here (10de:{device})" for device, count in
              Counter(unknown).items()]  # fmt: skip
    if ways := {how["path"][:2] for gpu in facts["gpus"] for how in gpu.get("peers", {}).values() if "path" in how}:
        words.append("NVLink between all" if ways == {"NV"} else "NVLink between some" if "NV" in ways else "no NVLink")
    drivers = {gpu.get("driver_version") or gpu["driver"] for gpu in facts["gpus"]}
    if words:
        words.append(f"driver {', '.join(sorted(drivers - {''}))}" if drivers - {""} else "no driver")
    return ", ".join([*(words or ["no NVIDIA GPU"]), f"{facts['ram_gib']:.0f} GiB of RAM"])


@dataclass(frozen=True)
class Fit:
    """A preset that a machine can serve, with its own context (0) or with so many tokens."""

    preset: str
    context: int = 0
    made_for_it: bool = False

    def __str__(self) -> str:
        return f"`{self.preset}`" + (f" with `vllm_max_model_len: {self.context}`" if self.context else "")


def fitting(root: Path, facts: Mapping[str, Any]) -> list[Fit]:
    """The presets that this machine can serve: those made for its very GPUs first, those with less context last."""
    fits: list[Fit] = []
    found = found_gpus(facts)
    if not found:
        return fits
    defaults = role_defaults(root)
    for name in load_hierarchy(root).names:
        values = defaults | load_preset(root, name).values
        there = _there(values, found)
        if not there or values.get("hardware_nodes", 1) > 1:
            continue
        made_for_it = values["hardware_gpus"] == str(there)
        if not any(_shortfalls(values, facts, there)):
            fits.append(Fit(name, made_for_it=made_for_it))
        elif (context := _longest(values, there)) and not any(
            _shortfalls({**values, "vllm_max_model_len": context}, facts, there)
        ):
            fits.append(Fit(name, context, made_for_it))
    return sorted(fits, key=lambda fit: (fit.context > 0, not fit.made_for_it))


def _longest(values: Mapping[str, Any], there: Gpus) -> int:
    """The context that fits where the preset's own does not; 0 if there is none worth having."""
    try:
        longest = plan_values({**values, "hardware_gpus": str(there)}).longest_context
    except InfboxError:
        return 0
    rounded = longest // CONTEXT_STEP * CONTEXT_STEP
    return rounded if rounded < values["vllm_max_model_len"] else 0


def judge(root: Path, preset: str, values: Mapping[str, Any], facts: Mapping[str, Any]) -> Judgement:
    """Compare a machine with a host's merged variables."""
    wanted, found, notes = values.get("hardware_gpus") or "", found_gpus(facts), list[str]()
    faulty: list[Problem] = []
    if wanted:
        notes += [facts["driver_fault"]] if facts["driver_fault"] else []
        notes += _between_gpus(facts, found)
        faulty = _faulty(facts)
    if not values.get("hardware_refuse_faulty_gpus", True):
        notes += [f"{problem.message}: {problem.hint}" for problem in faulty]
        faulty = []
    known = sum(each.count for each in found)
    unchecked = bool(wanted) and len(facts["gpus"]) >= parse_gpus(wanted).count > known
    if unchecked:
        notes.append(f"not checked: this machine has {describe(facts)}, and the preset is made for {wanted}")
    reasons = list(_shortfalls({**values, "hardware_gpus": "" if unchecked else wanted}, facts, _there(values, found)))
    if not reasons:
        return Judgement(tuple(faulty), tuple(notes))
    near = set(load_hierarchy(root).chain(preset))
    others = sorted(fitting(root, facts), key=lambda fit: near.isdisjoint(load_hierarchy(root).chain(fit.preset)))
    made_for = f"preset {preset} is made for {wanted or 'the processor'} and {values['hardware_ram_gib']} GiB of RAM"
    message = f"{made_for}, and this machine has {describe(facts)}: {'; '.join(reasons)}"
    hint = (
        f"{' or '.join(str(fit) for fit in others[:TOLD])} would fit"
        if others
        else "use a machine like the preset's, or a preset for this one: `infbox plan PRESET --gpus NxNAME` checks one"
    )
    return Judgement((Problem(message, hint), *faulty), tuple(notes))


def _faulty(facts: Mapping[str, Any]) -> list[Problem]:
    told = "; `hardware_refuse_faulty_gpus: false` goes on all the same"
    return [Problem(f"the GPU at {fault['address']}: {fault['what']}", fault["hint"] + told)
            for fault in gpu_faults(dict(facts))]  # fmt: skip


def _between_gpus(facts: Mapping[str, Any], found: tuple[Gpus, ...]) -> Iterator[str]:
    """What makes GPUs slow or stuck that work together, by NCCL's documentation ("Troubleshooting"): without NVLink
    they write to each other over PCIe, which an IOMMU or a bridge may send by way of the processor."""
    if len(facts["gpus"]) < 2:
        return
    shared = facts.get("shared_memory_gib", 0.0)
    if 0 < shared < SHARED_MEMORY_GIB:
        yield (
            f"{SHARED_MEMORY} has {shared:.2f} GiB, and engines of several GPUs want {SHARED_MEMORY_GIB:g} or more: "
            f"`mount -o remount,size=50% {SHARED_MEMORY}`, and the same in /etc/fstab"
        )
    yield from _peers(facts)
    if all(_has_nvlink(each.gpu) for each in found):
        return
    on = [gpu["address"] for gpu in facts["gpus"] if gpu.get("iommu", "").startswith("DMA")]
    through = sorted({bridge for gpu in facts["gpus"] for bridge in gpu.get("redirected_by", ())})
    if on:
        yield (
            f"the IOMMU translates what the GPUs at {', '.join(on)} write, which makes several of them slow together, "
            "or stuck: unless virtual machines need it, boot with `iommu=pt`, or turn it off in the firmware"
        )
    if through:
        yield (
            f"PCIe bridges ({', '.join(through)}) send what GPUs write to each other by way of the processor, which is "
            "slower: unless virtual machines need it, turn ACS off in the firmware"
        )


def _has_nvlink(gpu: Gpu | None) -> bool:
    return bool(gpu) and gpu.link.startswith("NVLink ") and gpu.link != "NVLink bridge"


def _peers(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the driver says of pairs of GPUs that is not as it should be."""
    linked = {gpu["address"] for gpu in facts["gpus"] if _has_nvlink(gpus_by_pci().get(gpu["device"]))}
    pairs = [(gpu["address"], other, how) for gpu in facts["gpus"] for other, how in gpu.get("peers", {}).items()
             if gpu["address"] < other]  # fmt: skip
    closed = [(one, other, how["access"]) for one, other, how in pairs if how.get("access") in NO_ACCESS]
    if closed:
        why = ", ".join(f"{code}: {NO_ACCESS[code]}" for code in sorted({code for *_, code in closed}))
        yield (
            f"{_named(closed, len(pairs))} may not read each other's memory ({why}): what they exchange goes by way of "
            "RAM, which makes an answer that several of them compute together slower"
        )
    # Not each pair has to have links of its own: the eight V100 of a machine have them to four others each.
    paths = {gpu["address"]: {how.get("path", "") for other, how in gpu.get("peers", {}).items() if other in linked}
             for gpu in facts["gpus"] if gpu["address"] in linked}  # fmt: skip
    apart = [address for address, ways in paths.items() if ways - {""} and not any(way[:2] == "NV" for way in ways)]
    if apart:
        yield (
            f"NVLink, which the GPUs at {', '.join(apart)} have, joins them to no other: `nvidia-smi nvlink --status` "
            "and `systemctl status nvidia-fabricmanager` say why"
        )


def _named(pairs: Sequence[tuple[str, str, str]], of: int) -> str:
    one, other, _ = pairs[0]
    return f"the GPUs at {one} and {other}" + (f" and {len(pairs) - 1} more of {of} pairs" if len(pairs) > 1 else "")


def _there(values: Mapping[str, Any], found: tuple[Gpus, ...]) -> Gpus | None:
    """Of the machine's kinds of GPUs, the one for the preset: its own, else the one there is most of."""
    wanted = values.get("hardware_gpus")
    if not wanted:
        return None
    own = [each for each in found if each.gpu == parse_gpus(wanted).gpu]
    return next(iter(own or found), None)


def _shortfalls(values: Mapping[str, Any], facts: Mapping[str, Any], there: Gpus | None) -> Iterator[str]:
    """Why the preset cannot be served there, each reason in one sentence."""
    least = values.get("hardware_ram_gib", 0)
    if facts["ram_gib"] < least * (1 - KEPT):
        yield f"{facts['ram_gib']:.1f} GiB of RAM are less than `hardware_ram_gib` {least}"
    if not values.get("hardware_gpus"):
        return
    if there is None:
        yield "the engine needs its GPUs"
        return
    yield from _slices(facts, there)
    wanted = parse_gpus(str(values["hardware_gpus"]))
    if there.gpu == wanted.gpu and there.count >= wanted.count:
        return
    try:
        plan = plan_values({**values, "hardware_gpus": str(there)})
    except InfboxError as fault:
        yield fault.message
        return
    yield from (refusal.reason for refusal in plan.refusals)


def _slices(facts: Mapping[str, Any], there: Gpus) -> Iterator[str]:
    for gpu in facts["gpus"]:
        shown, whole = gpu.get("memory_mib"), there.gpu.nvidia_smi_mib
        if shown and gpus_by_pci().get(gpu["device"]) == there.gpu and shown < whole * (1 - MEMORY_TOLERANCE):
            yield f"the GPU at {gpu['address']} shows {shown:,} MiB of {whole:,}: is it divided, by MIG or vGPU?"
