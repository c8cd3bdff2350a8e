"""What moto is given here beside the simulator's own additions: refusals, and the calls of Budgets that it lacks."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Refusal:
    """EC2 refuses calls of an action that carry a stack's tag, with an error code.

    `zones`: only in these. `times`: only so often. `refused`: the zones of the calls that were refused.
    """

    action: str
    stack: str
    code: str
    zones: tuple[str, ...] = ()
    times: int = 1_000_000
    refused: list[str] = field(default_factory=list)

    def applies(self, action: str, zone: str, text: str) -> bool:
        """Whether a call is to be refused; counts it if it is."""
        hit = action == self.action and f"'{self.stack}'" in text and (not self.zones or zone in self.zones)
        if hit and len(self.refused) < self.times:
            self.refused.append(zone)
            return True
        return False


def install_refusals(refusals: list[Refusal]) -> None:
    """Have moto's EC2 look at a list of refusals before it makes an instance or a volume."""
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.responses import EC2Response

    def guarded(action: str, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(self: Any) -> Any:
            zone, text = zone_of(self), str(self.querystring)
            for refusal in list(refusals):
                if refusal.applies(action, zone, text):
                    raise EC2ClientError(refusal.code, f"refused by a test in {zone}")
            return original(self)

        return call

    for action in ("run_instances", "create_volume"):
        setattr(EC2Response, action, guarded(action, getattr(EC2Response, action)))


def zone_of(response: Any) -> str:
    """The zone that a call is about: by name, by its subnet or its network interface; empty if it names none."""
    if zone := response._get_param("AvailabilityZone"):
        return zone
    interfaces = response._get_param("NetworkInterfaces") or response._get_param("NetworkInterface") or [{}]
    subnet_id = response._get_param("SubnetId") or interfaces[0].get("SubnetId")
    interface_id = interfaces[0].get("NetworkInterfaceId")
    backend = response.ec2_backend
    if not subnet_id and interface_id:
        subnet_id = backend.get_network_interface(interface_id).subnet.id
    return backend.get_subnet(subnet_id).availability_zone if subnet_id else ""


def install_budgets() -> None:
    """The two calls with which a provider reads a budget back: who is told, and the tags (none are kept)."""
    from moto.budgets.responses import BudgetsResponse

    def describe_subscribers_for_notification(self: Any) -> str:
        budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
        wanted = self._get_param("Notification")
        same = ("NotificationType", "ComparisonOperator", "Threshold")
        for notification in budget.notifications:
            if all(notification.details[key] == wanted[key] for key in same):
                return json.dumps({"Subscribers": notification.subscribers})
        return json.dumps({"Subscribers": []})

    def list_tags_for_resource(self: Any) -> str:
        return json.dumps({"ResourceTags": []})

    for call in (describe_subscribers_for_notification, list_tags_for_resource):
        setattr(BudgetsResponse, call.__name__, call)
