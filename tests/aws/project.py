"""A checkout in the simulated AWS: its `pulumi` command, its stack files, and what it left in the cloud."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from simulator import Simulator

ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    text: str

    @property
    def counts(self) -> dict[str, int]:
        """How many resources were created, updated, replaced, deleted; those that stay as they are left out."""
        last = [line for line in self.text.splitlines() if re.fullmatch(r"\s*\d+ \w+(, \d+ \w+)*", line)][-1]
        pairs = [part.split() for part in last.split(",")]
        return {verb: int(count) for count, verb in pairs if verb != "same"}

    def resources(self, verb: str) -> set[str]:
        """The types of the resources that were created, updated, replaced or deleted."""
        return set(re.findall(rf"^\s*\S+\s+aws:\w+/\w+:(\w+)\s+\S+\s+{verb}\b", self.text, re.MULTILINE))


class Project:
    """A checkout that tests may change."""

    def __init__(self, aws: Simulator, folder: Path) -> None:
        self.aws, self.folder = aws, folder

    def run(self, *command: str, seconds: float = 480, **environment: str) -> Said:
        """Run a command in the checkout, as a person would."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.aws.environment() | environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        return Said(done.returncode, done.stdout)

    def pulumi(self, *words: str) -> Said:
        """Run `pulumi`; it must succeed."""
        said = self.run("pulumi", *words)
        assert said.status == 0, said.text
        return said

    def make(self, action: str, *words: str) -> Said:
        """What `make up` and its like run."""
        return self.run(sys.executable, "hosts/stack.py", action, *words)

    def set_config(self, stack: str, **values: Any) -> None:
        """Set a stack's configuration, keys without `infbox:`; None removes one. A new stack gets what all have."""
        file = self.folder / f"Pulumi.{stack}.yaml"
        content = yaml.safe_load((file if file.exists() else self.folder / "Pulumi.cpu.yaml").read_text())
        for key, value in values.items():
            content["config"].pop(f"infbox:{key}", None)
            if value is not None:
                content["config"][f"infbox:{key}"] = value
        file.write_text(yaml.safe_dump(content))

    def set_in_preset(self, preset: str, **values: Any) -> None:
        """Set variables in a preset's file; one that is not there is made."""
        file = self.folder / f"inventories/group_vars/{preset}.yml"
        content = (yaml.safe_load(file.read_text()) if file.exists() else None) or {}
        file.write_text("---\n" + yaml.safe_dump(content | values))

    def output(self, stack: str, name: str) -> Any:
        """A stack's output."""
        return json.loads(self.pulumi("stack", "output", name, "--json", "--stack", stack).text)

    def in_the_cloud(self, stack: str, region: str = "us-east-1") -> dict[str, list[str]]:
        """What there is in the cloud of one stack, by kind; kinds of which there is nothing are left out.

        What carries a stack's tag, and what has its name in its own.
        """
        ec2, iam = self.aws.client("ec2", region), self.aws.client("iam", region)
        tagged = [{"Name": "tag:infbox-stack", "Values": [stack]}]
        instances = [
            each for group in ec2.describe_instances(Filters=tagged)["Reservations"] for each in group["Instances"]
        ]
        named: dict[str, list[str]] = {
            "roles": [each["RoleName"] for each in iam.list_roles()["Roles"]],
            "profiles": [each["InstanceProfileName"] for each in iam.list_instance_profiles()["InstanceProfiles"]],
            "placement groups": [each["GroupName"] for each in ec2.describe_placement_groups()["PlacementGroups"]],
            "key pairs": [each["KeyName"] for each in ec2.describe_key_pairs()["KeyPairs"]],
            "schedules": [each["Name"] for each in self.aws.client("scheduler", region).list_schedules()["Schedules"]],
            "budgets": [
                each["BudgetName"]
                for each in self.aws.client("budgets", region).describe_budgets(AccountId=ACCOUNT).get("Budgets", [])
            ],
        }
        volumes = ec2.describe_volumes(Filters=tagged)["Volumes"]
        found: dict[str, list[str]] = {
            "instances": [each["InstanceId"] for each in instances if each["State"]["Name"] != "terminated"],
            "volumes": [each["VolumeId"] for each in volumes if not is_root(each)],
            "addresses": [each["PublicIp"] for each in ec2.describe_addresses(Filters=tagged)["Addresses"]],
            "firewalls": [each["GroupId"] for each in ec2.describe_security_groups(Filters=tagged)["SecurityGroups"]],
            "networks": [each["VpcId"] for each in ec2.describe_vpcs(Filters=tagged)["Vpcs"]],
            "subnets": [each["SubnetId"] for each in ec2.describe_subnets(Filters=tagged)["Subnets"]],
            "routes": [each["RouteTableId"] for each in ec2.describe_route_tables(Filters=tagged)["RouteTables"]],
            "gateways": [
                each["InternetGatewayId"] for each in ec2.describe_internet_gateways(Filters=tagged)["InternetGateways"]
            ],
            "interfaces": [
                each["NetworkInterfaceId"]
                for each in ec2.describe_network_interfaces(Filters=tagged)["NetworkInterfaces"]
            ],
        }
        found |= {kind: [name for name in names if f"infbox-{stack}-" in name] for kind, names in named.items()}
        return {kind: ids for kind, ids in found.items() if ids}

    def describe(self, stack: str) -> dict[str, Any]:
        """What EC2 says of the stack's first instance."""
        (id_, *_) = self.output(stack, "instance_ids")
        return self.aws.client("ec2").describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]

    def volume(self, stack: str) -> dict[str, Any]:
        """What EC2 says of the stack's first data volume."""
        (id_, *_) = self.output(stack, "data_volume_ids")
        return self.aws.client("ec2").describe_volumes(VolumeIds=[id_])["Volumes"][0]


def is_root(volume: Mapping[str, Any]) -> bool:
    """Whether a volume is a machine's own, which goes with it."""
    return any(each["Device"] in ("/dev/sda1", "/dev/xvda") for each in volume["Attachments"])
