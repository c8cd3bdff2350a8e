"""One host of an Ansible run: whether it is in one preset, whether its variables mean what they say, and whether
what they say can be served (`infbox.planner`).

Called by `ansible/plugins/action/infbox_validate.py`, which brings the host's variables with their Jinja resolved;
nothing here knows Ansible. Presets themselves are `infbox.preset`'s, declared variables `infbox.variables`'.
"""

from collections.abc import Mapping, Set
from ipaddress import ip_address
from typing import Any

from infbox.errors import ImageError
from infbox.image.reference import Reference
from infbox.planner import plan_values, role_defaults
from infbox.preset import HIERARCHY, Hierarchy, check_required, load_hierarchy, roles_of
from infbox.variables import Problem, Variables

# Set by Ansible itself or meant for it. Everything else in a host's variables was written by a person.
MAGIC_PREFIXES = ("ansible_", "inventory_", "discovered_interpreter_", "molecule_", "role_", "play_", "__")
# What an inventory says of the machine itself; no role's variables.
MACHINE = ("data_device", "node_rank", "private_ip")
MAGIC = frozenset(
    {"environment", "group_names", "groups", "hostvars", "omit", "playbook_dir", "vars", "facts", "gather_subset"}
)


def is_magic(name: str) -> bool:
    """Whether a variable is Ansible's own, not one that somebody set."""
    return name in MAGIC or name.startswith(MAGIC_PREFIXES)


def check_host(
    variables: Variables,
    host: str,
    groups: Set[str],
    values: Mapping[str, Any],
    *,
    unresolved: Set[str] = frozenset(),
    defaulted: Set[str] = frozenset(),
    origins: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Every problem of one host.

    Args:
        variables: what the roles declare.
        host: the host's name in the inventory.
        groups: the groups it is in, `all` aside.
        values: its variables, Ansible's own among them; the declared ones and `MACHINE` without Jinja.
        unresolved: those whose Jinja needs what is known only later in the run; their names are checked alone.
        defaulted: those that a role's defaults set.
        origins: for a variable, the file and line where it was set.
    """
    hierarchy = load_hierarchy(variables.root)
    origins = origins or {}
    problems = check_membership(hierarchy, host, groups)
    for name in sorted([*values, *unresolved]):
        where = origins.get(name, "")
        if is_magic(name):
            continue
        if name in variables.by_name:
            found = [] if name in unresolved else variables.check(name, values[name], where)
            problems += [_with_command_line_hint(problem, name) for problem in found]
        elif variables.looks_misspelled(name):
            problems.append(variables.unknown(name, where))
    set_ = {*values, *unresolved, *defaulted}
    problems += check_required(variables, roles_of(variables.root, groups), set_, f"host `{host}`")
    merged = {**role_defaults(variables.root), **values}
    return problems or [
        *check_machine(host, merged),
        *check_image(merged),
        *check_kept(merged),
        *check_fit(merged),
    ]


def check_membership(hierarchy: Hierarchy, host: str, groups: Set[str]) -> list[Problem]:
    """A host must be in one preset's group, and so in those above it."""
    member_of = [name for name in hierarchy.names if name in groups]
    every = ", ".join(hierarchy.names)
    if not member_of:
        hint = f"put it into the group of its preset in your inventory, one of {every}"
        return [Problem(f"host `{host}` is in no preset's group", hint)]
    chains = {name: hierarchy.chain(name) for name in member_of}
    above = {parent for name in member_of for parent in chains[name][:-1]}
    leaves = [name for name in member_of if name not in above]
    if len(leaves) > 1:
        names = " and ".join(f"`{name}`" for name in leaves)
        hint = f"leave it in one of them; or make one build on the other in {HIERARCHY}"
        return [Problem(f"host `{host}` is in the groups of unrelated presets, {names}", hint)]
    if absent := [name for name in chains[leaves[0]] if name not in groups]:
        message = f"host `{host}` is in `{leaves[0]}`, but not in `{absent[-1]}`, which that preset builds on"
        return [Problem(message, f"name the hierarchy before your inventory: -i {HIERARCHY}")]
    return []


def check_machine(host: str, values: Mapping[str, Any]) -> list[Problem]:
    """What an inventory says of the machine itself, as a stack's output does; one by hand need not, for one node."""
    nodes = values.get("hardware_nodes", 1)
    problems: list[Problem] = []

    def expect(name: str, right: bool, kind: str) -> None:
        said = f"is {values[name]!r}, which is not" if name in values else "is not set: it must be"
        if not right and (name in values or nodes > 1):
            hint = "a stack's inventory says it: -i inventories/NAME.sh; in one of your own, set it for each host"
            problems.append(Problem(f"`{name}` of host `{host}` {said} {kind}", hint))

    rank = values.get("node_rank")
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and 0 <= rank < nodes
    expect("node_rank", is_rank, f"a number from 0 to {nodes - 1}, one for each node")
    expect("private_ip", _is_address(values.get("private_ip")), "the address by which its nodes reach one another")
    if "data_device" in values:
        device = values["data_device"]
        expect("data_device", isinstance(device, str) and device.startswith("/dev/"), "the path of a device")
    return problems


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ip_address(value))
    except ValueError:
        return False


def check_image(values: Mapping[str, Any]) -> list[Problem]:
    """An engine in a container needs an image, which is named by its digest; values with defaults."""
    if values.get("vllm_runtime") != "container":
        return []
    try:
        Reference.parse(str(values.get("vllm_image") or ""))
    except ImageError as fault:
        return [Problem(fault.message, fault.hint)]
    return []


def check_kept(values: Mapping[str, Any]) -> list[Problem]:
    """KV reaches a disk or Redis from the daemon's RAM alone, and so does what Cake splits; values with defaults."""
    if values.get("lmcache_l1_size_gib"):
        return []
    beyond = [name for name in ("lmcache_l2_size_gib", "redis_maxmemory_gib", "redis_url") if values.get(name)]
    if not beyond and values.get("vllm_cake_mode", "off") != "off":
        message = "`vllm_cake_mode` is set, and `lmcache_l1_size_gib` is 0: no KV is kept that could be loaded"
        return [Problem(message, "set `lmcache_l1_size_gib` and `lmcache_l2_size_gib`, or leave `vllm_cake_mode` out")]
    if not beyond:
        return []
    message = f"`{beyond[0]}` is set, and `lmcache_l1_size_gib` is 0: KV gets there through RAM, so none would be kept"
    return [Problem(message, f"set `lmcache_l1_size_gib`, or leave {' and '.join(beyond)} out")]


def check_fit(values: Mapping[str, Any]) -> list[Problem]:
    """Why a host's model cannot be served by the hardware that its preset names; values with their defaults."""
    if values.get("model_source") is None:
        return []
    gpus, build = values.get("hardware_gpus"), values.get("vllm_build")
    if gpus and build == "cpu":
        message = f"`vllm_build` is cpu, which uses no GPU, and the preset is made for {gpus}"
        return [Problem(message, "leave `vllm_build` out, or take preset `cpu`, which serves a model on the processor")]
    if not gpus and build == "cuda":
        message = f"`vllm_build` is {build}, which needs GPUs, and `hardware_gpus` says none"
        return [Problem(message, "set `hardware_gpus`, or `vllm_build: cpu` for the processor, as preset `cpu` does")]
    if values.get("hardware_nodes", 1) > 1:
        message = f"`hardware_nodes` is {values['hardware_nodes']}, and role `vllm` serves a model on one host, so far"
        return [Problem(message, "take a preset for one host")]
    return [Problem(refusal.reason, refusal.instead) for refusal in plan_values(values).refusals]


def _with_command_line_hint(problem: Problem, name: str) -> Problem:
    """`-e name=8192` gives a string, whatever it looks like: say how to write another type there."""
    if problem.where != "-e" or "without quotes" not in problem.hint:
        return problem
    return Problem(problem.message, f"""write JSON: -e '{{"{name}": value}}'""", problem.where)
