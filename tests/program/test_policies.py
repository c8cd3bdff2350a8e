"""The policy pack: each policy by its function, and the whole pack as Pulumi runs it, over its protocol."""

import contextlib
import json
import os
import subprocess
import sys

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from policies import POLICIES
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc
from pulumi_policy import PolicyResourceOptions, ResourceValidationArgs
from stack_program import PROGRAM

GROUP, RULE = "aws:ec2/securityGroup:SecurityGroup", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
INSTANCE, VOLUME = "aws:ec2/instance:Instance", "aws:ebs/volume:Volume"
GOOD_INSTANCE = {
    "ami": "ami-0c0ffee0000002204",
    "metadataOptions": {"httpTokens": "required"},
    "rootBlockDevice": {"encrypted": True},
}


def ssh_from(*cidrs, port=22):
    return {"ingress": [{"protocol": "tcp", "fromPort": port, "toPort": port, "cidrBlocks": [*cidrs]}]}


CASES = [
    (GROUP, ssh_from("203.0.113.7/32"), True, ""),
    (GROUP, ssh_from("0.0.0.0/0", port=443), True, ""),
    (GROUP, ssh_from("203.0.113.7/32", "0.0.0.0/0"), True, "SSH is open too wide: `0.0.0.0/0` is the whole internet"),
    (GROUP, ssh_from("0.0.0.0/1"), True, "1/2 of the whole internet"),
    (
        GROUP,
        {"ingress": [{"protocol": "tcp", "fromPort": 1, "toPort": 99, "ipv6CidrBlocks": ["::/0"]}]},
        True,
        "`::/0`",
    ),
    (GROUP, {"ingress": [{"protocol": "-1", "fromPort": 0, "toPort": 0, "cidrBlocks": ["0.0.0.0/0"]}]}, True, "SSH"),
    (GROUP, {"name": "sg-box"}, True, "must not begin with sg-"),
    (RULE, {"ipProtocol": "tcp", "fromPort": 22, "toPort": 22, "cidrIpv4": "0.0.0.0/0"}, True, "SSH is open"),
    (INSTANCE, GOOD_INSTANCE, True, ""),
    (INSTANCE, {**GOOD_INSTANCE, "ami": "ubuntu"}, True, "not pinned"),
    (INSTANCE, {**GOOD_INSTANCE, "metadataOptions": {"httpTokens": "optional"}}, True, "IMDSv1"),
    (INSTANCE, {"ami": "ami-0c0ffee0000002204", "rootBlockDevice": {"encrypted": True}}, True, "IMDSv1"),
    (INSTANCE, {**GOOD_INSTANCE, "rootBlockDevice": {"volumeSize": 100}}, True, "root volume is not encrypted"),
    (INSTANCE, {**GOOD_INSTANCE, "ebsBlockDevices": [{"deviceName": "/dev/sdb"}]}, True, "/dev/sdb is not encrypted"),
    (VOLUME, {"encrypted": True}, True, ""),
    (VOLUME, {"encrypted": False}, True, "not encrypted"),
    (VOLUME, {"encrypted": True}, False, "not protected"),
]


@pytest.mark.parametrize(("type_", "properties", "protect", "said"), CASES)
def test_a_policy_says_what_is_wrong_with_a_resource(type_, properties, protect, said):
    options = PolicyResourceOptions(protect, [], None, [], None, [], None)
    args = ResourceValidationArgs(type_, properties, f"urn::{type_}::box", "box", options, None)
    reports: list[str] = []
    for policy in POLICIES:
        policy.validate(args, lambda message, urn=None: reports.append(message))
    assert len(reports) == bool(said), reports
    assert said in "".join(reports)


@contextlib.contextmanager
def running_pack(**config):
    """The pack as Pulumi starts it: the stack's configuration is in its environment."""
    environment = {**os.environ, "PULUMI_CONFIG": json.dumps(config)}
    program = [sys.executable, str(PROGRAM / "policy")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
        process.terminate()


@pytest.fixture(scope="module")
def pack():
    with running_pack() as pack:
        yield pack


def analyze(pack, type_, properties, *, protect):
    struct = json_format.ParseDict(properties, struct_pb2.Struct())
    options = analyzer_pb2.AnalyzerResourceOptions(protect=protect)
    request = analyzer_pb2.AnalyzeRequest(
        type=type_, properties=struct, urn=f"urn:pulumi:dev32::infbox::{type_}::box", name="box", options=options
    )
    return list(pack.Analyze(request).diagnostics)


@pytest.mark.parametrize(("type_", "properties", "protect", "said"), CASES)
def test_pulumi_is_told_so_as_a_mandatory_fault(pack, type_, properties, protect, said):
    found = analyze(pack, type_, properties, protect=protect)
    assert len(found) == bool(said), found
    for each in found:
        assert said in each.message
        assert each.enforcementLevel == analyzer_pb2.MANDATORY


def test_a_stack_that_says_so_may_have_an_unprotected_volume():
    with running_pack(**{"infbox:protectData": "false"}) as pack:
        assert analyze(pack, VOLUME, {"encrypted": True}, protect=False) == []
