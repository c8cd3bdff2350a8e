"""What a preset asks of AWS: which machine, how many, how large a disk; refused before anything is declared.

The preset is read as Ansible reads it; whether its model fits is the planner's to say.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infbox.catalogue import InstanceType, instance_type, parse_gpus
from infbox.errors import StackError
from infbox.planner import plan_preset, role_defaults
from infbox.preset import load_hierarchy, load_preset
from settings import Settings

# Which of a type's usage classes a way of buying needs.
_USAGE_CLASS = {"spot": "spot", "capacity-block": "capacity-block"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine of one preset.

    `data_size_gib`: of each node's data volume; `efa_cards`: network cards with EFA on each node, 0 where the nodes
    need none; `domain`: the box's public name, or empty; `public_acme`: whether a public authority must reach it;
    `grouped`: whether the nodes are put close together, into a placement group.
    """

    preset: str
    type: InstanceType
    nodes: int
    data_size_gib: int
    domain: str
    public_acme: bool
    grouped: bool

    @property
    def efa_cards(self) -> int:
        """Network cards of each node that get EFA."""
        return min(self.type.max_efa, self.type.network_cards) if self.nodes > 1 else 0


def read_machine(root: Path, settings: Settings) -> Machine:
    """The machine of a stack's preset.

    Raises:
        PresetError: there is no such preset or type, or the preset has a problem.
        StackError: the model does not fit, AWS has no such machine, or it cannot be bought that way.
    """
    values = role_defaults(root) | load_preset(root, settings.preset).values
    if not values["hardware_aws_instance_type"]:
        stacks = ", ".join(_presets_with_stacks(root))
        message = f"AWS has no machine of the preset `{settings.preset}` ({values['hardware_gpus'] or 'no GPU'})"
        raise StackError(message, f"these have one: {stacks}; or set `hardware_aws_instance_type` in a preset below it")
    plan = plan_preset(root, settings.preset)
    if not plan.fits:
        reasons = "\n".join(refusal.reason for refusal in plan.refusals)
        hint = "\n".join(refusal.instead for refusal in plan.refusals if refusal.instead)
        raise StackError(f"the preset `{settings.preset}` does not fit: {reasons}", hint)
    type_ = instance_type(values["hardware_aws_instance_type"])
    _check_hardware(settings.preset, values, type_)
    _check_purchase(settings, type_)
    if settings.dns_zone_id and not values["caddy_domain"]:
        message = f"`infbox:dnsZoneId` is set, but the preset `{settings.preset}` has no `caddy_domain` to put into it"
        raise StackError(message, "set caddy_domain in the preset, as in llm.example.com")
    return Machine(
        preset=settings.preset,
        type=type_,
        nodes=values["hardware_nodes"],
        data_size_gib=values["storage_data_size_gib"],
        domain=values["caddy_domain"],
        # AWS puts the machines of a capacity block close together by itself.
        grouped=values["hardware_nodes"] > 1 and settings.purchase != "capacity-block",
        public_acme=bool(values["caddy_domain"] and not values["caddy_acme_directory"]),
    )


def _presets_with_stacks(root: Path) -> list[str]:
    names = load_hierarchy(root).names
    return [name for name in names if load_preset(root, name).values.get("hardware_aws_instance_type")]


def _check_hardware(preset: str, values: dict[str, Any], type_: InstanceType) -> None:
    """The type must have the GPUs that the preset was planned on, and the RAM."""
    wanted = values["hardware_gpus"]
    hint = f"change `hardware_aws_instance_type` of the preset `{preset}`, or what it says of its hardware"
    if wanted and not _has(type_.gpus, wanted):
        message = (
            f"`hardware_aws_instance_type` {type_.name} has {type_.gpus or 'no GPU'}, but `hardware_gpus` is {wanted}"
        )
        raise StackError(message, hint)
    if type_.ram_gib < values["hardware_ram_gib"]:
        message = f"`hardware_aws_instance_type` {type_.name} has {type_.ram_gib:g} GiB of RAM"
        raise StackError(f"{message}, but `hardware_ram_gib` is {values['hardware_ram_gib']}", hint)


def _has(gpus: str, wanted: str) -> bool:
    """Whether `gpus` are at least as many of the same kind as `wanted`; both as in 8xH100, `gpus` may be empty."""
    if not gpus:
        return False
    have, want = parse_gpus(gpus), parse_gpus(wanted)
    return have.gpu == want.gpu and have.count >= want.count


def _check_purchase(settings: Settings, type_: InstanceType) -> None:
    needed = _USAGE_CLASS.get(settings.purchase)
    if needed and needed not in type_.usage_classes:
        ways = ", ".join(sorted(type_.usage_classes))
        message = f"`infbox:purchase` is {settings.purchase}, which AWS does not offer for {type_.name}"
        raise StackError(
            message, f"it offers {ways}: pulumi config set infbox:purchase on-demand --stack {settings.stack}"
        )
