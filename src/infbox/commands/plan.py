"""`infbox plan`: whether a preset's model fits a machine, as a table or JSON. The work is `infbox.planner`'s."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from infbox.planner import Plan, plan_preset, speed
from infbox.planner.memory import Budget
from infbox.planner.setup import Setup
from infbox.planner.sizes import kv_bytes_a_token, parameters
from infbox.preset import find_root

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

_WIDTH = 24
_LINE = 118


def register(commands: "Commands") -> None:
    """Add `infbox plan`."""
    parser = commands.add_parser(
        "plan",
        help="say whether a preset's model fits a machine, and what would",
        description="Whether the preset's model fits the machine it is made for, or another one.",
        epilog="Exit status: 0 it fits; 2 it is refused, with the reason and what would work (and wrong usage); "
        "1 it could not be planned, as with a preset that there is not.",
    )
    parser.add_argument("preset", metavar="PRESET")
    parser.add_argument("--gpus", metavar="NxNAME[-GB]", help="other GPUs in a host: 4xA100-80, 8xRTX4090, 1xT4")
    parser.add_argument(
        "--model", metavar="ID", help="another model: ORG/NAME of the catalogue or the hub, or a folder"
    )
    parser.add_argument("--context", metavar="N", type=int, help="another context, in tokens")
    parser.add_argument("--json", action="store_true", help="for programs: bytes, seconds, tokens")
    parser.add_argument("--root", type=Path, help="the checkout of infbox (default: the one you are in)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the plan. Returns 0 if it fits, 2 if it is refused."""
    root = options.root or find_root(Path.cwd())
    plan = plan_preset(root, options.preset, gpus=options.gpus, model=options.model, context=options.context)
    if options.json:
        print(json.dumps(plan.to_json(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(as_table(plan)))
    return 0 if plan.fits else 2


def as_table(plan: Plan) -> Iterator[str]:
    """A plan for a newcomer: what is planned, where the memory goes, what is left, how long things take."""
    setup = plan.setup
    if setup is not None:
        yield from _what(plan, setup)
        if plan.budget is not None:
            yield from _memory(plan.budget, setup)
            yield from _tokens(plan, setup)
            yield from _times(setup)
        yield ""
    for refusal in plan.refusals:
        yield from _wrapped("refused", refusal.reason)
        yield from _wrapped("instead", refusal.instead)
    for note in plan.notes:
        yield from _wrapped("note", note)
    if plan.fits and setup is not None:
        yield from _wrapped("fits", f"{setup.model.name} with {setup.context:,} tokens of context on {_machine(setup)}")


def _row(label: str, value: str, explained: str = "") -> str:
    return f"{label:<{_WIDTH}}{value:>16}  {explained}".rstrip()


def _wrapped(label: str, text: str) -> Iterator[str]:
    """A sentence behind its label; lines that are to be copied stay as they are."""
    sentence, *lines = text.split("\n")
    shown = textwrap.wrap(sentence, _LINE - 10, break_long_words=False, break_on_hyphens=False) or [""]
    yield f"{label + ':':<10}{shown[0]}"
    for line in [*shown[1:], *lines]:
        yield f"{'':<10}{line}"


def _what(plan: Plan, setup: Setup) -> Iterator[str]:
    model, parallel = setup.architecture, setup.parallel
    yield _row(
        "model", "", f"{setup.model.name}, {parameters(model) / 1e9:.1f} B parameters, {model.quantization.name}"
    )
    yield _row("machine", "", _machine(setup))
    if setup.gpus:
        parts = [f"tensor parallel {parallel.tensor}"]
        parts += [f"pipeline parallel {parallel.pipeline}"] if parallel.pipeline > 1 else []
        parts += [f"{parallel.data} replicas"] if parallel.data > 1 else []
        parts += ["whole experts a GPU"] if parallel.experts else []
        yield _row("spread", "", ", ".join(parts))


def _memory(found: Budget, setup: Setup) -> Iterator[str]:
    yield ""
    if setup.gpus:
        total = found.total
        yield _row("memory of a GPU", _gib(total), "as the engine sees it")
        share = f"{setup.utilization:g} of it (`vllm_gpu_memory_utilization`)"
        yield _row("the engine's share", _gib(found.share), share)
    else:
        yield _row("RAM", _gib(found.total))
    beside = f"and {_gib(found.offloaded)} in RAM (`vllm_cpu_offload_gb`)" if found.offloaded else ""
    yield _row("- weights", _gib(found.weights), beside)
    working = found.activations + found.graphs + found.outside
    yield _row(
        "- to compute with", _gib(working), "activations, CUDA graphs, libraries" if setup.gpus else "the engine"
    )
    if found.kv > 0:
        yield _row("= KV cache", _gib(found.kv), "what the model remembers of its context")
    else:
        yield _row("= KV cache", "none", f"{_gib(-found.kv)} are missing before there is any")


def _tokens(plan: Plan, setup: Setup) -> Iterator[str]:
    a_token = kv_bytes_a_token(setup.architecture, setup.kv_bytes)
    yield ""
    yield _row("KV cache of a token", f"{a_token:,} B", f"{setup.kv_bytes * 8} bits a value")
    yield _row("tokens that fit", f"{plan.kv_tokens:,}", "a replica" if setup.parallel.data > 1 else "")
    longest = f"the model itself takes {setup.architecture.context:,}"
    yield _row("longest context", f"{plan.longest_context:,}", longest)
    yield _row("context planned", f"{setup.context:,}", "`vllm_max_model_len`")
    if setup.workspace_tokens:
        share = f"tokens, {setup.workspace_share:g} of the context (`watcher_context_share`)"
        yield _row("a workspace gets", f"{setup.workspace_tokens:,}", share)
    yield _row("full contexts at a time", f"{plan.full_contexts:.1f}", "shorter ones: more")
    tiers = speed.tier_tokens(setup)
    ram, disk = setup.kept_ram_gib, setup.kept_disk_gib
    half = f"tokens, were `lmcache_l1_size_gib` half of {setup.ram_gib} GiB"
    yield _row("kept in RAM", f"{tiers['RAM']:,}", f"tokens in {ram:g} GiB" if ram else half)
    rest = f"tokens in {setup.disk_gib} GiB beside the model, were `lmcache_l2_size_gib` that"
    if disk or setup.disk_gib:
        yield _row("kept on disk", f"{tiers['disk']:,}", f"tokens in {disk:g} GiB" if disk else rest)


def _times(setup: Setup) -> Iterator[str]:
    yield ""
    prefill = speed.prefill_seconds(setup, setup.context)
    if prefill is not None:
        told = f"a full context, at {speed.EFFICIENCY:.0%} of the GPUs' 16-bit peak"
        yield _row("to read", _seconds(prefill), told)
    reload = speed.kv_load_seconds(setup, setup.context)
    yield _row("to reload its KV", _seconds(reload["RAM"]), f"from RAM at {speed.RAM_GB_S:g} GB/s a GPU")
    for name, rate in speed.DISKS_GB_S.items():
        yield _row("", _seconds(reload[name]), f"from {name}, {rate:g} GB/s")
    size = f"{speed.file_bytes(setup) / 1e9:,.1f} GB of weights"
    label = "to load the model"
    for (name, rate), seconds in zip(speed.DISKS_GB_S.items(), speed.load_seconds(setup).values(), strict=True):
        yield _row(label, _seconds(seconds), f"{size} from {name}, {rate:g} GB/s")
        label, size = "", "the same"


def _machine(setup: Setup) -> str:
    if setup.gpus is None:
        return f"the processor, {setup.ram_gib} GiB of RAM"
    gpu = setup.gpus.gpu
    nodes = f"{setup.nodes} nodes of " if setup.nodes > 1 else ""
    return f"{nodes}{setup.gpus} ({gpu.memory_gb} GB, compute capability {gpu.compute_capability}, {gpu.link})"


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _seconds(seconds: float) -> str:
    if seconds >= 90:
        return f"{seconds / 60:,.1f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
