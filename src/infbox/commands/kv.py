"""`infbox kv`: what LMCache's daemon of this box keeps; forget it; prove that it gives back what was computed."""

import argparse
import json
from typing import Any, cast
from urllib.parse import quote

from infbox.engine_probe import Answer, Ask, ask_over
from infbox.errors import NotReadyError
from infbox.kv.check import SALT, check
from infbox.kv.reset import PATH

DAEMON_SOCKET = "/run/infbox-lmcache/lmcache.sock"
ENGINE_SOCKET = "/run/infbox-vllm/vllm.sock"
STATE_SECONDS, CLEAR_SECONDS = 10.0, 300.0
_STILL = (
    "run it again: what a killed engine was about to read is in use for five minutes,"
    " or until systemctl restart infbox-lmcache infbox-vllm"
)
_HINT = "systemctl status infbox-lmcache; without lmcache_l1_size_gib there is no daemon, and a user needs root"


def register(commands: Any) -> None:
    """Add `infbox kv`."""
    parser: argparse.ArgumentParser = commands.add_parser("kv", help="KV cache that outlives the engine")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status: argparse.ArgumentParser = actions.add_parser("status", help="say what is kept in RAM, on disk, in Redis")
    status.add_argument("--json", action="store_true", help="print a JSON object")
    status.set_defaults(run=_status)
    clear: argparse.ArgumentParser = actions.add_parser("clear", help="forget all that was computed, or a tenant's")
    clear.add_argument("--tenant", metavar="NAME", help="of this tenant alone")
    clear.set_defaults(run=_clear)
    proof: argparse.ArgumentParser = actions.add_parser(
        "check", help="compare an answer that was computed with the same from KV that was loaded"
    )
    proof.add_argument("--margin", metavar="NATS", type=float, default=0.0, help="lead in log-probability (default 0)")
    proof.add_argument("--timeout", metavar="SECONDS", type=float, default=300.0, help="for each answer (default 300)")
    proof.set_defaults(run=_check)
    for each in (status, clear, proof):
        each.add_argument("--socket", metavar="FILE", default=DAEMON_SOCKET, help="default: %(default)s")
    for each in (clear, proof):
        each.add_argument("--engine-socket", metavar="FILE", default=ENGINE_SOCKET, help="default: %(default)s")


def _status(options: argparse.Namespace) -> None:
    told = state(options.socket)
    print(json.dumps(told) if options.json else describe(told))


def _clear(options: argparse.Namespace) -> None:
    query = "" if options.tenant is None else f"?tenant={quote(options.tenant, safe='')}"
    told = _object(_ask(options.socket, Ask("POST", f"/infbox/clear{query}"), CLEAR_SECONDS), "deleted")
    print("deleted: " + ", ".join(f"{count:,} chunks in {tier}" for tier, count in told["deleted"].items()))
    faults = list(told["faults"])
    # An engine's own cache has no tenants that one could tell it to forget.
    try:
        answer = ask_over(options.engine_socket, Ask("POST", PATH), STATE_SECONDS)
        if not _object(answer, "done")["done"]:
            faults.append("the engine computes, and keeps what it has in its own memory")
    except NotReadyError as fault:
        faults.append(f"the engine's own memory: {fault.message}")
    if faults:
        raise NotReadyError("not all was forgotten: " + "; ".join(faults), _STILL)


def _check(options: argparse.Namespace) -> None:
    chunk = int(state(options.socket)["chunk_tokens"])
    try:
        seen = check(options.engine_socket, chunk, options.margin, options.timeout)
    finally:
        _ask(options.socket, Ask("POST", f"/infbox/clear?tenant={SALT}"), CLEAR_SECONDS)
    print(f"{seen.cached:,} of {seen.prompt:,} tokens were loaded, and the answer is the one that was computed")


def state(socket: str) -> dict[str, Any]:
    """What the daemon says of itself.

    Raises:
        NotReadyError: there is no daemon, or it does not answer as one.
    """
    return _object(_ask(socket, Ask("GET", "/infbox/state"), STATE_SECONDS), "tiers")


def _ask(socket: str, ask: Ask, timeout: float) -> Answer:
    try:
        return ask_over(socket, ask, timeout)
    except NotReadyError as fault:
        raise NotReadyError(fault.message, _HINT) from None


def _object(answer: Answer, field: str) -> dict[str, Any]:
    told = answer.json()
    if answer.status != 200 or not isinstance(told, dict) or field not in told:
        raise NotReadyError(f"an answer of {answer.status} without {field}: {answer.body[:200]!r}", _HINT)
    return cast("dict[str, Any]", told)


def describe(told: dict[str, Any]) -> str:
    """The daemon's state, for people."""
    rows = [
        ("state", "healthy" if told["healthy"] else "not healthy"),
        ("engines", f"{told['engines']:,}"),
        ("tokens of a chunk", f"{told['chunk_tokens']:,}"),
    ]
    for tier in told["tiers"]:
        size = f"of {tier['capacity_bytes'] / 2**30:.2f} " if tier["capacity_bytes"] else ""
        rows.append((tier["name"], f"{tier['bytes'] / 2**30:.2f} {size}GiB, {tier['chunks']:,} chunks"))
        for tenant, chunks in sorted(tier["chunks_of_tenants"].items()):
            rows.append((f"  {tenant or '(no tenant)'}", f"{chunks:,} chunks"))
        if failures := tier.get("failures"):
            rows.append(("  failed", ", ".join(f"{count:,} x {what}" for what, count in sorted(failures.items()))))
    found = [f"{told['tiers'][0]['hit_tokens']:,} tokens in RAM"]
    found += [f"{tier['loaded_chunks']:,} chunks in {tier['name']}" for tier in told["tiers"][1:]]
    rows.append(("asked for", f"{told['asked_tokens']:,} tokens since its start; found: {', '.join(found)}"))
    if cake := told.get("cake"):
        rows += _cake_rows(cake)
    return "\n".join(f"{title:<20}{value}" for title, value in rows)


def _cake_rows(cake: dict[str, Any]) -> list[tuple[str, str]]:
    """What came of prompts whose KV Cake was asked for; nothing where it is off."""
    if not cake["prompts"]:
        return []

    def listed(counts: dict[str, int], what: str) -> str:
        return ", ".join(f"{count:,} {what.format(name)}" for name, count in sorted(counts.items()))

    rows = [("Cake", "prompts: " + listed(cake["prompts"], "{}"))]
    if cake["tokens"]:
        bandwidth, speed = cake["bytes_per_second"] / 1e6, cake["tokens_per_second"]
        rates = f"{bandwidth:,.0f} MB/s from storage, {speed:,} tokens/s computed"
        rows.append(("  of those split", f"{listed(cake['tokens'], 'tokens {}')}; {rates}"))
    if cake["mispredictions"]:
        rows.append(("  slower", f"{cake['mispredictions']:,} than the better of computing and loading was to be"))
    if cake["fallbacks"]:
        rows.append(("  not to the end", listed(cake["fallbacks"], "x {}")))
    return rows
