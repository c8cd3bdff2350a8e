"""Ways in: the key pair for SSH, and AWS's Session Manager for those who have no SSH."""

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

SESSION_MANAGER = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"


@dataclass(frozen=True, kw_only=True)
class AccessArgs:
    """`secret`: the public key was set as a secret."""

    ssh_public_key: str
    secret: bool
    tags: dict[str, str]


class Access(pulumi.ComponentResource):
    """Outputs: `key_name`, `profile_name` (of what gives a node Session Manager, and no more)."""

    key_name: pulumi.Output[str]
    profile_name: pulumi.Output[str]

    def __init__(self, name: str, args: AccessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:Access", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        public_key = pulumi.Output.secret(args.ssh_public_key) if args.secret else args.ssh_public_key
        pair = aws.ec2.KeyPair(name, public_key=public_key, tags=args.tags, opts=own)
        role = aws.iam.Role(name, assume_role_policy=assume_role_by("ec2.amazonaws.com"), tags=args.tags, opts=own)
        aws.iam.RolePolicyAttachment(name, role=role.name, policy_arn=SESSION_MANAGER, opts=own)
        profile = aws.iam.InstanceProfile(name, role=role.name, tags=args.tags, opts=own)
        self.key_name, self.profile_name = pair.key_name, profile.name
        self.register_outputs({"key_name": self.key_name, "profile_name": self.profile_name})


def assume_role_by(service: str, **condition: str) -> str:
    """The policy that lets a service of AWS use a role, where `condition` (key=value) holds."""
    statement: dict[str, object] = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if condition:
        statement["Condition"] = {"StringEquals": {f"aws:{key}": value for key, value in condition.items()}}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
