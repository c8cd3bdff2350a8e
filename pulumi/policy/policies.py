"""The policies: each hands a resource's properties to the program's own checks (`../checks.py`) and reports."""

from collections.abc import Callable, Iterable

import pulumi
from pulumi_policy import EnforcementLevel, ReportViolation, ResourceValidationArgs, ResourceValidationPolicy

import checks

_Check = Callable[[ResourceValidationArgs], Iterable[str]]


def _policy(name: str, description: str, check: _Check, *types: str) -> ResourceValidationPolicy:
    """A mandatory policy over resources of some types."""

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type in types:
            for fault in check(args):
                report(f"{args.name}: {fault}", None)

    return ResourceValidationPolicy(
        name=name, description=description, validate=validate, enforcement_level=EnforcementLevel.MANDATORY
    )


def _security_group(args: ResourceValidationArgs) -> Iterable[str]:
    return checks.security_group_faults(args.name, args.props)


def _rule(args: ResourceValidationArgs) -> Iterable[str]:
    return () if args.props.get("type") == "egress" else checks.ingress_faults(args.props)


def _instance(args: ResourceValidationArgs) -> Iterable[str]:
    return checks.instance_faults(args.props)


def _volume(args: ResourceValidationArgs) -> Iterable[str]:
    unprotected = pulumi.Config("infbox").get("protectData") == "false"
    return checks.volume_faults(args.props, protected=args.opts.protect, may_be_unprotected=unprotected)


POLICIES = [
    _policy(
        "ssh-from-named-networks",
        "SSH is open to networks that somebody named, never to nearly everybody.",
        _security_group,
        "aws:ec2/securityGroup:SecurityGroup",
    ),
    _policy(
        "ssh-rules-from-named-networks",
        "The same for rules that are resources of their own.",
        _rule,
        "aws:ec2/securityGroupRule:SecurityGroupRule",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    ),
    _policy(
        "machines",
        "A machine has a pinned image, IMDSv2 only, and encrypted volumes.",
        _instance,
        "aws:ec2/instance:Instance",
    ),
    _policy(
        "data-volumes",
        "A data volume is encrypted, and protected unless the stack says otherwise.",
        _volume,
        "aws:ebs/volume:Volume",
    ),
]
