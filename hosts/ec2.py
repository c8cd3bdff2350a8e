"""What is asked of AWS beside Pulumi: which zones have an instance type, and to start and stop instances.

boto3 is loaded when something is asked, not before. Credentials are found as every AWS tool finds them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infbox.errors import InfboxError

# How long an instance may take to start or stop. Large ones with many GPUs take minutes to stop.
WAIT = {"Delay": 5, "MaxAttempts": 180}
HINTS = {
    "InsufficientInstanceCapacity": "AWS has none left in this zone: try again later, or `make up` after letting go of "
    "its data volume, which finds another zone",
    "IncorrectSpotRequestState": "a spot instance cannot be started again by hand: `make up` makes another",
    "UnauthorizedOperation": "the credentials lack the right to do this: `aws sts get-caller-identity` names them",
    "AuthFailure": "the credentials in use are not valid: `aws sts get-caller-identity`",
    "InvalidInstanceID.NotFound": "it was deleted outside Pulumi: `pulumi refresh`, then `make up`",
}


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn boto3's faults into ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as fault:
        code = fault.response.get("Error", {}).get("Code", "")
        raise InfboxError(f"AWS refuses to {what}: {fault}", HINTS.get(code, "")) from fault
    except BotoCoreError as fault:
        hint = "`aws sts get-caller-identity` shows whether credentials are found; AWS_PROFILE chooses among several"
        raise InfboxError(f"AWS cannot be asked to {what}: {fault}", hint) from fault


class Region:
    """EC2 in one region. `profile`: of the AWS configuration file; empty for the default."""

    def __init__(self, name: str, profile: str = "") -> None:
        import boto3

        with explained(f"speak of the region {name}"):
            self.ec2: Any = boto3.Session(region_name=name, profile_name=profile or None).client("ec2")
        self.name = name

    def zones_with(self, instance_type: str) -> list[str]:
        """The zones that offer an instance type, by name; none if the region does not have it."""
        wanted = [{"Name": "instance-type", "Values": [instance_type]}]
        with explained(f"list the zones with {instance_type}"):
            pages = self.ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone", Filters=wanted
            )
            return sorted(offer["Location"] for page in pages for offer in page["InstanceTypeOfferings"])

    def states(self, ids: list[str]) -> dict[str, str]:
        """The state of each instance: running, stopped …"""
        with explained("describe the instances"):
            answer = self.ec2.describe_instances(InstanceIds=ids)
        instances = [instance for group in answer["Reservations"] for instance in group["Instances"]]
        return {instance["InstanceId"]: instance["State"]["Name"] for instance in instances}

    def start(self, ids: list[str]) -> list[str]:
        """Start those that do not run and wait until they do; returns which ones that were."""
        states = self.states(ids)
        if gone := [id_ for id_, state in states.items() if state in ("terminated", "shutting-down")]:
            raise InfboxError(f"instance {gone[0]} is {states[gone[0]]}", HINTS["InvalidInstanceID.NotFound"])
        with explained("start the instances"):
            if stopping := [id_ for id_, state in states.items() if state == "stopping"]:
                self.ec2.get_waiter("instance_stopped").wait(InstanceIds=stopping, WaiterConfig=WAIT)
            if stopped := [id_ for id_, state in states.items() if state in ("stopped", "stopping")]:
                self.ec2.start_instances(InstanceIds=stopped)
            self.ec2.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig=WAIT)
        return stopped

    def stop(self, ids: list[str]) -> list[str]:
        """Stop those that run and wait until they have; returns which ones that were."""
        running = [id_ for id_, state in self.states(ids).items() if state in ("pending", "running")]
        with explained("stop the instances"):
            if running:
                self.ec2.stop_instances(InstanceIds=running)
            self.ec2.get_waiter("instance_stopped").wait(InstanceIds=ids, WaiterConfig=WAIT)
        return running
