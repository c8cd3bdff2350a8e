"""A stack's configuration, read once into one frozen object; every problem in one message.

Nothing here speaks to AWS. What may be set, and what it does, is in `Settings`; sizes and types come from the preset
(`machine.py`). What is wrong with a value is `checks.py`'s to say.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import checks
from infbox.errors import StackError
from infbox.variables import Problem, nearest_name, problems_error

PURCHASES = ("on-demand", "spot", "reservation", "capacity-block")
# These pay for a machine whether it runs or not.
PREPAID = ("capacity-block",)
_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


@dataclass(frozen=True, kw_only=True)
class OfficeHours:
    """When the machine runs. `start`, `stop`: HH:MM; `days`: as in MON-FRI; `timezone`: as in Europe/Berlin."""

    start: str
    stop: str
    days: str = "MON-FRI"
    timezone: str = "UTC"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the account may cost a month, in US dollars, and who is told when it will cost more."""

    monthly_usd: float
    email: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack's configuration. The comments are the keys: `pulumi config set <key> <value> --stack <stack>`."""

    stack: str
    region: str  # aws:region
    preset: str  # infbox:preset; without, the stack's name
    image: str  # infbox:image, required: an AMI's id, or the path of an SSM parameter
    ssh_public_key: str  # infbox:sshPublicKey, required
    ssh_cidrs: tuple[str, ...]  # infbox:sshCidrs, required
    https_cidrs: tuple[str, ...] | None = None  # infbox:httpsCidrs; without, those for SSH
    ssh_user: str = "ubuntu"  # infbox:sshUser: the image's user
    zone: str  # infbox:zone, a letter or a name; without, the region's zone a
    vpc_id: str | None = None  # infbox:vpcId with infbox:subnetId: an existing network
    subnet_id: str | None = None
    purchase: str = "on-demand"  # infbox:purchase
    capacity_reservation_id: str | None = None  # infbox:capacityReservationId
    protect_data: bool = True  # infbox:protectData
    dns_zone_id: str | None = None  # infbox:dnsZoneId: a Route 53 zone for the preset's caddy_domain
    idle_stop_minutes: int | None = None  # infbox:idleStopMinutes; without, what the preset says
    office_hours: OfficeHours | None = None  # infbox:officeHours
    budget: Budget | None = None  # infbox:budget
    secret_keys: frozenset[str] = frozenset()  # the keys that were set with --secret


_Parser = Callable[[str], Any]


class _ValueError(Exception):
    """A value that cannot be; the sentence goes on after the key."""


def read_settings(config: Mapping[str, str], stack: str, secret_keys: frozenset[str] = frozenset()) -> Settings:
    """Read a stack's configuration.

    Args:
        config: every key with its namespace, and its value as Pulumi hands it over: text, or JSON.
        stack: the stack's name.
        secret_keys: the keys whose values may not be shown.

    Raises:
        StackError: names every key that is missing, unknown, or has a value that cannot be.
    """
    reader = _Reader(config, stack, secret_keys)
    reader.refuse_unknown()
    region = reader.required("aws:region", _region, "us-east-1")
    reader.required("aws:maxRetries", _retries, "5")
    values: dict[str, Any] = {
        field: reader.optional(f"infbox:{key}", parse) for key, (field, parse) in _OPTIONAL.items()
    }
    for key, (field, parse, example) in _REQUIRED.items():
        values[field] = reader.required(f"infbox:{key}", parse, example)
    given = {field: value for field, value in values.items() if value is not None}
    reader.problems += _contradictions(stack, given)
    given["zone"] = _zone_name(reader, region, given.get("zone"))
    if not _STACK.fullmatch(stack):
        hint = "name it with a letter, then at most 39 letters, digits, `_`, `-` or `.`"
        reader.problems.append(Problem(f"a stack cannot be named `{stack}`: what it makes carries its name", hint))
    if reader.problems:
        fault = problems_error(reader.problems, f"`pulumi preview --stack {stack}`")
        raise StackError(fault.message, fault.hint)
    given.setdefault("preset", stack)
    return Settings(stack=stack, region=region, secret_keys=secret_keys, **given)


class _Reader:
    """Reads keys and collects what is wrong with them."""

    def __init__(self, config: Mapping[str, str], stack: str, secret_keys: frozenset[str]) -> None:
        self.config, self.stack, self.secret_keys = config, stack, secret_keys
        self.problems: list[Problem] = []

    def required(self, key: str, parse: _Parser, example: str) -> Any:
        if key not in self.config:
            hint = f"pulumi config set {key} {example} --stack {self.stack}"
            self.problems.append(Problem(f"`{key}` is not set, and has no default", hint))
            return None
        return self.optional(key, parse)

    def optional(self, key: str, parse: _Parser) -> Any:
        if key not in self.config:
            return None
        try:
            return parse(self.config[key])
        except _ValueError as fault:
            shown = "" if key == "infbox:sshPublicKey" else f" is {self.config[key][:80]!r}:"
            message = f"`{key}`{shown} {fault}"
            if key in self.secret_keys:
                message = f"`{key}` is a secret, and has a value that cannot be"
            hint = f"pulumi config set {key} {_example(key)} --stack {self.stack}"
            self.problems.append(Problem(message, hint))
            return None

    def refuse_unknown(self) -> None:
        known = [f"infbox:{key}" for key in (*_REQUIRED, *_OPTIONAL)]
        for key in self.config:
            if key.startswith("infbox:") and key not in known:
                nearest = nearest_name(key, known, cutoff=0.6)
                hint = f"did you mean `{nearest}`? " if nearest else ""
                hint += f"pulumi config rm {key} --stack {self.stack}"
                self.problems.append(Problem(f"there is no setting `{key}`", hint))


def _zone_name(reader: _Reader, region: str | None, zone: str | None) -> str:
    """A zone by its letter or its name. The default is fixed, not asked for: an answer that changed would move it."""
    region = region or ""
    name = zone or "a"
    name = f"{region}{name}" if len(name) == 1 else name
    if region and not re.fullmatch(rf"{re.escape(region)}[a-z]", name):
        hint = f"pulumi config set infbox:zone {region}b --stack {reader.stack}"
        reader.problems.append(Problem(f"`infbox:zone` is {zone!r}, which is no zone of {region}", hint))
    return name


def _contradictions(stack: str, given: Mapping[str, Any]) -> list[Problem]:
    """Settings that exclude or need one another."""
    purchase = given.get("purchase", "on-demand")
    reserved = "capacity_reservation_id" in given
    problems: list[Problem] = []

    def add(message: str, command: str) -> None:
        problems.append(Problem(message, f"{command} --stack {stack}"))

    if ("vpc_id" in given) != ("subnet_id" in given):
        missing = "subnetId" if "vpc_id" in given else "vpcId"
        add("an existing network is `infbox:vpcId` and `infbox:subnetId`", f"pulumi config set infbox:{missing} …")
    if "subnet_id" in given and "zone" in given:
        add("`infbox:zone` cannot be chosen in an existing subnet, which is in one", "pulumi config rm infbox:zone")
    if purchase in ("reservation", "capacity-block") and not reserved:
        example = "pulumi config set infbox:capacityReservationId cr-0123456789abcdef0"
        add(f"`infbox:purchase` {purchase} needs `infbox:capacityReservationId`", example)
    if reserved and purchase not in ("reservation", "capacity-block"):
        message = f"`infbox:capacityReservationId` is set, but `infbox:purchase` is {purchase}"
        add(message, "pulumi config set infbox:purchase reservation")
    if purchase in PREPAID:
        for field, key in (("idle_stop_minutes", "idleStopMinutes"), ("office_hours", "officeHours")):
            if given.get(field):
                message = f"`infbox:{key}` would stop a machine of `infbox:purchase` {purchase}, which is paid already"
                add(f"{message}, and cannot start again once its time is over", f"pulumi config rm infbox:{key}")
    return problems


def _text(value: str) -> str:
    if not value.strip() or value != value.strip():
        raise _ValueError("it is empty or has spaces around it")
    return value


def _matching(pattern: str, what: str) -> _Parser:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise _ValueError(f"it must be {what}")
        return value

    return parse


def _one_of(*choices: str) -> _Parser:
    def parse(value: str) -> str:
        if value not in choices:
            nearest = nearest_name(value, list(choices), cutoff=0.5)
            raise _ValueError(
                f"it must be one of {', '.join(choices)}" + (f"; did you mean {nearest}?" if nearest else "")
            )
        return value

    return parse


def _whole_number(least: int, most: int, unit: str) -> _Parser:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise _ValueError(f"it must be a whole number of {unit}, {least} to {most}")
        return int(value)

    return parse


def _switch(value: str) -> bool:
    if value not in ("true", "false"):
        raise _ValueError("it must be true or false")
    return value == "true"


def _cidrs(value: str) -> tuple[str, ...]:
    networks = _json(value)
    if not isinstance(networks, list) or not networks:
        raise _ValueError("it must be a list with at least one network")
    items = cast(list[object], networks)
    faults = [checks.network_fault(each) if isinstance(each, str) else f"{each!r} is no text" for each in items]
    if named := [fault for fault in faults if fault]:
        raise _ValueError("; ".join(named))
    return tuple(dict.fromkeys(cast(list[str], networks)))


def _checked(check: Callable[[str], str | None]) -> _Parser:
    def parse(value: str) -> str:
        if fault := check(value):
            raise _ValueError(fault)
        return value.strip()

    return parse


def _json(value: str) -> object:
    try:
        return cast(object, json.loads(value))
    except ValueError as fault:
        raise _ValueError("it is no JSON") from fault


def _mapping(value: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    content = _json(value)
    if not isinstance(content, dict):
        raise _ValueError("it must be a mapping")
    found = cast(dict[str, Any], content)
    if unknown := sorted(set(found) - {*required, *optional}):
        raise _ValueError(f"it has no part `{unknown[0]}`; it has {', '.join((*required, *optional))}")
    if missing := [name for name in required if name not in found]:
        raise _ValueError(f"it lacks `{missing[0]}`")
    return found


def _office_hours(value: str) -> OfficeHours:
    found = _mapping(value, ("start", "stop"), ("days", "timezone"))
    for part in ("start", "stop"):
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", str(found[part])):
            raise _ValueError(f"its `{part}` must be a time as in 08:00")
    if found["start"] == found["stop"]:
        raise _ValueError("it starts and stops at the same time")
    day = f"({'|'.join(_DAYS)})"
    if not re.fullmatch(rf"{day}([-,]{day})*", str(found.get("days", "MON-FRI"))):
        raise _ValueError("its `days` must be as in MON-FRI, or MON,WED,FRI")
    if not re.fullmatch(r"[A-Za-z_]+(/[A-Za-z_+\-0-9]+)*", str(found.get("timezone", "UTC"))):
        raise _ValueError("its `timezone` must be a name as in Europe/Berlin")
    return OfficeHours(**found)


def _budget(value: str) -> Budget:
    found = _mapping(value, ("monthlyUsd", "email"))
    amount, email = found["monthlyUsd"], found["email"]
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 1 <= amount <= 10_000_000:
        raise _ValueError("its `monthlyUsd` must be a number of US dollars, 1 to 10000000")
    if not isinstance(email, str) or not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        raise _ValueError("its `email` must be an address")
    return Budget(monthly_usd=amount, email=email)


_STACK = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_region = _matching(r"[a-z]{2}(-[a-z]+)+-[0-9]", "a region, as in us-east-1")
_retries = _whole_number(1, 10, "tries (more wait for minutes in silence where there is no capacity)")

_REQUIRED: dict[str, tuple[str, _Parser, str]] = {
    "sshCidrs": ("ssh_cidrs", _cidrs, """'["203.0.113.7/32"]'"""),
    "image": ("image", _checked(checks.image_fault), "ami-0123456789abcdef0"),
    "sshPublicKey": ("ssh_public_key", _checked(checks.public_key_fault), '"$(cat ~/.ssh/id_ed25519.pub)"'),
}
_OPTIONAL: dict[str, tuple[str, _Parser]] = {
    "preset": ("preset", _text),
    "httpsCidrs": ("https_cidrs", _cidrs),
    "sshUser": ("ssh_user", _matching(r"[a-z_][a-z0-9_-]{0,31}", "a user's name")),
    "zone": ("zone", _text),
    "vpcId": ("vpc_id", _matching(r"vpc-[0-9a-f]{8,17}", "a VPC's id, as in vpc-0123456789abcdef0")),
    "subnetId": ("subnet_id", _matching(r"subnet-[0-9a-f]{8,17}", "a subnet's id, as in subnet-0123456789abcdef0")),
    "purchase": ("purchase", _one_of(*PURCHASES)),
    "capacityReservationId": (
        "capacity_reservation_id",
        _matching(r"cr-[0-9a-f]{8,17}", "a reservation's id, as in cr-0123456789abcdef0"),
    ),
    "protectData": ("protect_data", _switch),
    "dnsZoneId": ("dns_zone_id", _matching(r"Z[A-Z0-9]{1,31}", "a Route 53 zone's id, as in Z0123456789ABCDEFGHIJ")),
    "idleStopMinutes": ("idle_stop_minutes", _whole_number(0, 10080, "minutes")),
    "officeHours": ("office_hours", _office_hours),
    "budget": ("budget", _budget),
}
_EXAMPLES = {
    "infbox:httpsCidrs": """'["203.0.113.0/24"]'""",
    "infbox:officeHours": """'{"start": "08:00", "stop": "19:00", "timezone": "Europe/Berlin"}'""",
    "infbox:budget": """'{"monthlyUsd": 500, "email": "you@example.com"}'""",
    "aws:maxRetries": "5",
    "aws:region": "us-east-1",
}


def _example(key: str) -> str:
    required = _REQUIRED.get(key.removeprefix("infbox:"))
    return required[2] if required else _EXAMPLES.get(key, "…")
