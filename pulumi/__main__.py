"""The Pulumi program: what a preset's box is on AWS. It only wires; each component is a file beside this one.

settings.py and machine.py say what is wanted, and refuse what cannot be, before anything is declared. Then:
network.py → firewall.py, access.py → gpu_node.py → guard.py; outputs.py is what Ansible and people get.
"""

from pathlib import Path

import pulumi
import pulumi_aws as aws

import outputs
from access import Access, AccessArgs
from checks import is_parameter
from firewall import Firewall, FirewallArgs
from gpu_node import GpuNode, GpuNodeArgs
from guard import BudgetArgs, BudgetGuard, OfficeHoursArgs, OfficeHoursGuard
from infbox.errors import InfboxError
from infbox.preset import find_root
from machine import read_machine
from network import Network, NetworkArgs
from settings import read_settings


def main() -> None:
    """Declare the stack."""
    settings = read_settings(
        pulumi.runtime.get_config_env(), pulumi.get_stack(), frozenset(pulumi.runtime.get_config_secret_keys_env())
    )
    machine = read_machine(find_root(Path(__file__).resolve()), settings)
    name = f"infbox-{settings.stack}"
    tags = {"infbox-stack": settings.stack, "infbox-preset": machine.preset}

    network = Network(
        name, NetworkArgs(zone=settings.zone, vpc_id=settings.vpc_id, subnet_id=settings.subnet_id, tags=tags)
    )
    firewall = Firewall(
        name,
        FirewallArgs(
            vpc_id=network.vpc_id,
            ssh_cidrs=settings.ssh_cidrs,
            https_cidrs=settings.https_cidrs,
            has_domain=bool(machine.domain),
            public_acme=machine.public_acme,
            within=machine.nodes > 1,
            secret=bool(settings.secret_keys & {"infbox:sshCidrs", "infbox:httpsCidrs"}),
            tags=tags,
        ),
    )
    access = Access(
        name,
        AccessArgs(
            ssh_public_key=settings.ssh_public_key, secret="infbox:sshPublicKey" in settings.secret_keys, tags=tags
        ),
    )
    placement = aws.ec2.PlacementGroup(name, strategy="cluster") if machine.grouped else None
    image = settings.image
    if is_parameter(image):
        image = aws.ssm.get_parameter(name=image).insecure_value
    nodes = {
        f"{settings.stack}-{rank}": GpuNode(
            f"{name}-{rank}",
            GpuNodeArgs(
                instance_type=machine.type.name,
                image=image,
                keep_image=is_parameter(settings.image),
                zone=network.zone,
                subnet_id=network.subnet_id,
                group_id=firewall.group_id,
                key_name=access.key_name,
                profile_name=access.profile_name,
                placement_group=placement.name if placement else None,
                efa_cards=machine.efa_cards,
                purchase=settings.purchase,
                capacity_reservation_id=settings.capacity_reservation_id,
                data_size_gib=machine.data_size_gib,
                protect_data=settings.protect_data,
                tags=tags,
            ),
        )
        for rank in range(machine.nodes)
    }

    hosts = {host: outputs.host_variables(settings, node, rank) for rank, (host, node) in enumerate(nodes.items())}
    first = next(iter(nodes.values()))
    if settings.office_hours:
        OfficeHoursGuard(
            name,
            OfficeHoursArgs(
                hours=settings.office_hours,
                instance_ids=[node.instance_id for node in nodes.values()],
                instance_arns=[node.instance_arn for node in nodes.values()],
                tags=tags,
            ),
        )
    if settings.budget:
        BudgetGuard(name, BudgetArgs(budget=settings.budget, tags=tags))
    if settings.dns_zone_id:
        aws.route53.Record(
            name, zone_id=settings.dns_zone_id, name=machine.domain, type="A", ttl=300, records=[first.public_ip]
        )
    known = pulumi.Output.all(**{host: pulumi.Output.all(**values) for host, values in hosts.items()})
    pulumi.export("inventory", known.apply(lambda hosts: outputs.inventory(machine.preset, hosts)))
    pulumi.export("ssh_config", known.apply(outputs.ssh_config))
    pulumi.export("endpoint", first.public_ip.apply(lambda address: f"https://{machine.domain or address}/v1"))
    pulumi.export("instance_ids", [node.instance_id for node in nodes.values()])
    pulumi.export("data_volume_ids", [node.volume_id for node in nodes.values()])
    pulumi.export("zone", network.zone)
    pulumi.export("region", settings.region)


try:
    main()
except InfboxError as fault:
    raise pulumi.RunError(str(fault)) from None
