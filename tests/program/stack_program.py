"""Runs the Pulumi program, unmodified, against mocks that answer by name; planner and catalogue are the real ones."""

import asyncio
import json
import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks as pulumi_mocks

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "pulumi"
sys.path[:0] = [str(PROGRAM), str(PROGRAM / "policy")]

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti you@host"
REQUIRED = {
    "aws:region": "us-east-1",
    "aws:maxRetries": "5",
    "infbox:sshCidrs": '["203.0.113.7/32"]',
    "infbox:image": "ami-0c0ffee0000002204",
    "infbox:sshPublicKey": PUBLIC_KEY,
}
# What AWS would add to a resource: by Pulumi's type and the resource's name.
ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("aws:ec2/eip:Eip", "infbox-dev32-0"): {"publicIp": "198.51.100.10", "allocationId": "eipalloc-1"},
    ("aws:ec2/instance:Instance", "infbox-dev32-0"): {
        "privateIp": "10.42.0.10",
        "arn": "arn:aws:ec2:us-east-1:123456789012:instance/i-0",
    },
    ("aws:ebs/volume:Volume", "infbox-dev32-0"): {"id": "vol-0123456789abcdef0"},
}
CALLS: dict[str, dict[str, Any]] = {
    "aws:ec2/getSubnet:getSubnet": {
        "id": "subnet-0123456789abcdef0",
        "vpcId": "vpc-0123456789abcdef0",
        "availabilityZone": "us-east-1c",
    },
    "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": "123456789012"},
    "aws:ssm/getParameter:getParameter": {"insecureValue": "ami-0c0ffee0000002203", "value": "ami-0c0ffee0000002203"},
}


@dataclass
class Declared:
    """What a run of the program declared: each resource's inputs by type and name, and the options it was given."""

    inputs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: dict[tuple[str, str], Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def one(self, type_: str) -> dict[str, Any]:
        """The inputs of the only resource of a type; as in Instance."""
        (found,) = self.all(type_).values()
        return found

    def all(self, type_: str) -> dict[str, dict[str, Any]]:
        """The inputs of all resources of a type by name."""
        return {name: inputs for (each, name), inputs in self.inputs.items() if each.endswith(f":{type_}")}

    def options(self, type_: str) -> Any:
        """The request with which the only resource of a type was registered: `protect`, `ignoreChanges`, …"""
        (found,) = [request for (each, _), request in self.requests.items() if each.endswith(f":{type_}")]
        return found


class ByName(pulumi_mocks.Mocks):
    """Answers as AWS would, by type and name; what is not in ANSWERS gets an id made of its name."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared

    def new_resource(self, args: pulumi_mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        self.declared.inputs[args.typ, args.name] = args.inputs
        answer = dict(ANSWERS.get((args.typ, args.name), {}))
        id_ = answer.pop("id", f"{args.name}-id")
        made_up = {"arn": f"arn:aws:any:us-east-1:123456789012:{args.name}", "name": f"{args.name}-name"}
        return id_, {**made_up, "publicIp": "198.51.100.99", "keyName": f"{args.name}-key", **args.inputs, **answer}

    def call(self, args: pulumi_mocks.MockCallArgs) -> Any:
        self.declared.calls.append(args.token)
        return {**args.args, **CALLS[args.token]}


class Monitor(pulumi_mocks.MockMonitor):
    """Keeps the options of resources, and the stack's outputs."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(ByName(declared))
        self.declared = declared

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        self.declared.requests[request.type, request.name] = request
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        if "pulumi:pulumi:Stack" in request.urn:
            self.declared.outputs = json.loads(json.dumps(pulumi.runtime.rpc.deserialize_properties(request.outputs)))
        return super().RegisterResourceOutputs(request)


def run_program(monkeypatch: pytest.MonkeyPatch, stack: str = "dev32", **settings: Any) -> Declared:
    """Run the program for a stack with the required settings and others (None takes one away)."""
    given = REQUIRED | {f"infbox:{key}": value for key, value in settings.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items() if value}
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(texts))
    declared = Declared()
    # Pulumi keeps what it is set to for the current thread's loop, so each run gets a new one.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    monitor = Monitor(declared)
    pulumi_mocks.set_mocks(monitor.mocks, project="infbox", stack=stack, monitor=monitor)
    pulumi.runtime.settings.set_root_resource(None)  # the program gets a stack of its own, whose outputs are kept
    program = str(PROGRAM / "__main__.py")
    try:
        loop.run_until_complete(
            pulumi.runtime.run_in_stack(lambda: runpy.run_path(program, run_name="__main__") and None)
        )
    finally:
        loop.close()
    return declared
