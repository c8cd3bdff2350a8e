"""One node: the machine, its data volume, and its address.

The data volume and the address are not the machine's: they stay when it is replaced, and move to the new one. The
volume is made after the machine, so that a zone without capacity leaves none behind which would then tie the stack to
that zone. Disks inside the machine (instance store) are found by the roles.
"""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

# The system, drivers, containers and Python environments; models and KV cache are on the data volume.
ROOT_GIB = 100
# gp3 gives 125 MB/s unless told: loading 32 GB would take four minutes. 500 is the most that 3000 IOPS allow... of a
# quarter of a MB/s each: 750.
DATA_THROUGHPUT_MB_S, DATA_IOPS = 500, 3000
# Only what Ansible needs on a bare image; `cloud-init status --wait` on the node says when it is there.
USER_DATA = "#cloud-config\npackages: [python3]\n"


@dataclass(frozen=True, kw_only=True)
class GpuNodeArgs:
    """One node.

    `image`: an AMI's id. `keep_image`: a machine that exists keeps its image when `image` changes. `efa_cards`:
    network cards that get EFA. `purchase`, `capacity_reservation_id`: see `Settings`.
    """

    instance_type: str
    image: str
    keep_image: bool
    zone: str
    subnet_id: pulumi.Input[str]
    group_id: pulumi.Input[str]
    key_name: pulumi.Input[str]
    profile_name: pulumi.Input[str]
    placement_group: pulumi.Input[str] | None
    efa_cards: int
    purchase: str
    capacity_reservation_id: str | None
    data_size_gib: int
    protect_data: bool
    tags: dict[str, str]


class GpuNode(pulumi.ComponentResource):
    """Outputs: `instance_id`, `instance_arn`, `private_ip`, `public_ip`, `volume_id`, `data_device` (a path)."""

    instance_id: pulumi.Output[str]
    instance_arn: pulumi.Output[str]
    private_ip: pulumi.Output[str]
    public_ip: pulumi.Output[str]
    volume_id: pulumi.Output[str]
    data_device: pulumi.Output[str]

    def __init__(self, name: str, args: GpuNodeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:GpuNode", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        tags = {**args.tags, "Name": name}
        cards = self._efa_interfaces(name, args, tags)
        instance = self._instance(name, args, cards, tags)

        async def zone_of_the_made_machine() -> str:
            # An order, and no dependency: `pulumi destroy --exclude-protected` keeps what a volume depends on.
            await instance.id.future()
            return args.zone

        volume = aws.ebs.Volume(
            name,
            availability_zone=zone_of_the_made_machine(),
            size=args.data_size_gib,
            type="gp3",
            iops=DATA_IOPS,
            throughput=DATA_THROUGHPUT_MB_S,
            encrypted=True,
            tags=tags,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect_data),
        )
        aws.ec2.VolumeAttachment(
            name,
            device_name="/dev/sdf",
            volume_id=volume.id,
            instance_id=instance.id,
            # A volume is never taken from under a running machine, and is on one machine at a time.
            stop_instance_before_detaching=True,
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        address = aws.ec2.Eip(name, domain="vpc", tags=tags, opts=own)
        aws.ec2.EipAssociation(
            name,
            allocation_id=address.allocation_id,
            instance_id=None if cards else instance.id,
            network_interface_id=cards[0].id if cards else None,
            allow_reassociation=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[instance]),
        )
        self.instance_id, self.instance_arn, self.private_ip = instance.id, instance.arn, instance.private_ip
        self.public_ip, self.volume_id = address.public_ip, volume.id
        self.data_device = volume.id.apply(device_path)
        names = ("instance_id", "instance_arn", "private_ip", "public_ip", "volume_id", "data_device")
        self.register_outputs({each: getattr(self, each) for each in names})

    def _efa_interfaces(self, name: str, args: GpuNodeArgs, tags: dict[str, str]) -> list[aws.ec2.NetworkInterface]:
        """One interface a network card: the first with IP, the others for EFA's own traffic alone."""
        return [
            aws.ec2.NetworkInterface(
                f"{name}-{card}" if card else name,
                subnet_id=args.subnet_id,
                security_groups=[args.group_id],
                interface_type="efa-only" if card else "efa",
                tags=tags,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for card in range(args.efa_cards)
        ]

    def _instance(
        self, name: str, args: GpuNodeArgs, cards: list[aws.ec2.NetworkInterface], tags: dict[str, str]
    ) -> aws.ec2.Instance:
        # A public key is read at the first boot only: another one must not cost the machine.
        kept = ["key_name", "ami"] if args.keep_image else ["key_name"]
        return aws.ec2.Instance(
            name,
            ami=args.image,
            instance_type=args.instance_type,
            subnet_id=None if cards else args.subnet_id,
            vpc_security_group_ids=None if cards else [args.group_id],
            network_interfaces=[
                {
                    "network_interface_id": card.id,
                    "network_card_index": index,
                    "device_index": 1 if index else 0,
                }
                for index, card in enumerate(cards)
            ]
            or None,
            key_name=args.key_name,
            iam_instance_profile=args.profile_name,
            placement_group=args.placement_group,
            metadata_options={"http_endpoint": "enabled", "http_tokens": "required", "http_put_response_hop_limit": 1},
            root_block_device={"volume_type": "gp3", "volume_size": ROOT_GIB, "encrypted": True, "tags": tags},
            # So a box may stop itself, with `poweroff` and no right in AWS at all.
            instance_initiated_shutdown_behavior="stop",
            instance_market_options=market_options(args.purchase),
            capacity_reservation_specification={
                "capacity_reservation_target": {"capacity_reservation_id": args.capacity_reservation_id}
            }
            if args.capacity_reservation_id
            else None,
            user_data=USER_DATA,
            tags=tags,
            # Where capacity is short there is none for a second machine beside the first.
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True, ignore_changes=kept),
        )


def market_options(purchase: str) -> aws.ec2.InstanceInstanceMarketOptionsArgsDict | None:
    """How EC2 is told the way of buying. A spot machine that is interrupted is stopped, and started again by AWS."""
    if purchase == "spot":
        options: aws.ec2.InstanceInstanceMarketOptionsSpotOptionsArgsDict = {
            "spot_instance_type": "persistent",
            "instance_interruption_behavior": "stop",
        }
        return {"market_type": "spot", "spot_options": options}
    return {"market_type": "capacity-block"} if purchase == "capacity-block" else None


def device_path(volume_id: str) -> str:
    """Where Linux shows an EBS volume on machines of the Nitro system, whatever name it was attached by."""
    return f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"
