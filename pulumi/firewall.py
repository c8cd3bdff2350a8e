"""The security group: SSH and HTTPS from networks that somebody named, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from checks import SSH_PORT

HTTP_PORT, HTTPS_PORT = 80, 443
WORLD = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, kw_only=True)
class FirewallArgs:
    """Who may reach the box.

    `https_cidrs`: None for those of SSH. `has_domain`: certificates come from an ACME authority, which checks the box's
    name over port 80 or 443; `public_acme`: that authority is on the internet, not the site's own. `within`: the nodes
    reach one another on every port, as several that serve one model must. `secret`: the networks are not shown.
    """

    vpc_id: pulumi.Input[str]
    ssh_cidrs: tuple[str, ...]
    https_cidrs: tuple[str, ...] | None
    has_domain: bool
    public_acme: bool
    within: bool
    secret: bool
    tags: dict[str, str]


class Firewall(pulumi.ComponentResource):
    """The nodes' security group. Output: `group_id`."""

    group_id: pulumi.Output[str]

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:Firewall", name, None, opts)
        ingress = [_rule("tcp", port, cidrs, purpose) for port, cidrs, purpose in open_ports(args)]
        egress: list[aws.ec2.SecurityGroupEgressArgsDict] = [{**_rule("-1", 0, WORLD, "everywhere")}]
        if args.within:
            ingress.append({"protocol": "-1", "from_port": 0, "to_port": 0, "self": True, "description": "nodes"})
            egress.append({"protocol": "-1", "from_port": 0, "to_port": 0, "self": True, "description": "nodes"})
        # The rules are the group's own: one that somebody adds by hand is taken away by the next `pulumi up`.
        group = aws.ec2.SecurityGroup(
            name,
            vpc_id=args.vpc_id,
            description="SSH and HTTPS",
            ingress=pulumi.Output.secret(ingress) if args.secret else ingress,
            egress=egress,
            tags={**args.tags, "Name": name},
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.group_id = group.id
        self.register_outputs({"group_id": self.group_id})


def open_ports(args: FirewallArgs) -> list[tuple[int, Sequence[str], str]]:
    """Each open port, the networks that reach it, and what for.

    The world gets port 80 where a public ACME authority must come in, and 443 too unless somebody named its networks:
    one of the two challenges is enough.
    """
    https = args.https_cidrs or (WORLD if args.public_acme else args.ssh_cidrs)
    ports: list[tuple[int, Sequence[str], str]] = [(SSH_PORT, args.ssh_cidrs, "SSH"), (HTTPS_PORT, https, "HTTPS")]
    if args.has_domain:
        ports.append((HTTP_PORT, WORLD if args.public_acme else https, "ACME"))
    return ports


def _rule(protocol: str, port: int, cidrs: Sequence[str], purpose: str) -> aws.ec2.SecurityGroupIngressArgsDict:
    return {
        "protocol": protocol,
        "from_port": port,
        "to_port": port,
        "cidr_blocks": [cidr for cidr in cidrs if ":" not in cidr],
        "ipv6_cidr_blocks": [cidr for cidr in cidrs if ":" in cidr],
        "description": purpose,
    }
