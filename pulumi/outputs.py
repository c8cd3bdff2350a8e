"""What a stack tells others, as functions of plain values: Ansible's inventory, and text for an SSH client.

The inventory's shape is what `ansible/validate.yml` asserts; `inventories/` hands it to Ansible beside
`inventories/presets.yml`, which has the groups above a preset's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from gpu_node import GpuNode
from settings import Settings


def inventory(preset: str, hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An inventory in the form of Ansible's inventory scripts: hosts by name with their variables, in one group."""
    return {"_meta": {"hostvars": {name: dict(values) for name, values in hosts.items()}}, preset: {"hosts": [*hosts]}}


def host_variables(settings: Settings, node: GpuNode, rank: int) -> dict[str, pulumi.Input[Any]]:
    """The variables of one host."""
    values: dict[str, pulumi.Input[Any]] = {
        "ansible_host": node.public_ip,
        "ansible_user": settings.ssh_user,
        "private_ip": node.private_ip,
        "data_device": node.data_device,
        "node_rank": rank,
    }
    if settings.idle_stop_minutes is not None:
        values["idle_stop_after_minutes"] = settings.idle_stop_minutes
    return values


def ssh_config(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Text for ~/.ssh/config, and so for Cursor and VS Code; add your key's IdentityFile where it is no usual one."""
    return "\n".join(line for name, values in hosts.items() for line in _ssh_host(name, values))


def _ssh_host(name: str, values: Mapping[str, Any]) -> Sequence[str]:
    return (
        f"Host infbox-{name}",
        f"    HostName {values['ansible_host']}",
        f"    User {values['ansible_user']}",
        "    IdentitiesOnly yes",
        "    ServerAliveInterval 30",
        "",
    )
