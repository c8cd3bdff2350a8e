"""The network: a VPC with one public subnet, or an existing subnet. One zone a run of the program."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infbox.errors import StackError

CIDR = "10.42.0.0/16"


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """`zone`: where an own subnet is made. `vpc_id` and `subnet_id`: an existing one, taken as it is."""

    zone: str
    vpc_id: str | None
    subnet_id: str | None
    tags: dict[str, str]


class Network(pulumi.ComponentResource):
    """Where nodes are. Outputs: `vpc_id`, `subnet_id`; and the zone's name, known at once."""

    vpc_id: pulumi.Output[str]
    subnet_id: pulumi.Output[str]
    zone: str

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:Network", name, None, opts)
        if args.subnet_id:
            subnet = aws.ec2.get_subnet(id=args.subnet_id, opts=pulumi.InvokeOptions(parent=self))
            if subnet.vpc_id != args.vpc_id:
                message = (
                    f"`infbox:subnetId` {args.subnet_id} is in {subnet.vpc_id}, not in `infbox:vpcId` {args.vpc_id}"
                )
                raise StackError(message, f"pulumi config set infbox:vpcId {subnet.vpc_id}")
            self.vpc_id = pulumi.Output.from_input(subnet.vpc_id)
            self.subnet_id = pulumi.Output.from_input(args.subnet_id)
            self.zone = subnet.availability_zone
        else:
            self._make(name, args)
        self.register_outputs({"vpc_id": self.vpc_id, "subnet_id": self.subnet_id, "zone": self.zone})

    def _make(self, name: str, args: NetworkArgs) -> None:
        own = pulumi.ResourceOptions(parent=self)
        tags = {**args.tags, "Name": name}
        vpc = aws.ec2.Vpc(name, cidr_block=CIDR, enable_dns_hostnames=True, tags=tags, opts=own)
        gateway = aws.ec2.InternetGateway(name, vpc_id=vpc.id, tags=tags, opts=own)
        routes = aws.ec2.RouteTable(
            name,
            vpc_id=vpc.id,
            routes=[{"cidr_block": "0.0.0.0/0", "gateway_id": gateway.id}],
            tags=tags,
            opts=own,
        )
        subnet = aws.ec2.Subnet(
            name,
            vpc_id=vpc.id,
            availability_zone=args.zone,
            cidr_block=subnet_cidr(args.zone),
            # A node needs the internet at its first boot, before it has its own address.
            map_public_ip_on_launch=True,
            tags=tags,
            opts=own,
        )
        aws.ec2.RouteTableAssociation(name, subnet_id=subnet.id, route_table_id=routes.id, opts=own)
        self.vpc_id, self.subnet_id, self.zone = vpc.id, subnet.id, args.zone


def subnet_cidr(zone: str) -> str:
    """A /20 of the VPC for each zone: when the zone changes, the new subnet is made beside the old one."""
    return f"10.42.{16 * ((ord(zone[-1]) - ord('a')) % 16)}.0/20"
