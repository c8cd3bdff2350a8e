"""What a stack may not be, as functions of plain values: no Pulumi, no AWS.

`settings.py` asks them before anything is declared; the policy pack (`policy/`) asks the same ones about every
resource, for people who change the program. A function returns what is wrong as one sentence, or None.
Properties are in Pulumi's spelling, as policies get them: `metadataOptions`, `cidrBlocks`.
"""

import base64
import binascii
import ipaddress
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SSH_PORT = 22
# The widest networks that SSH may be opened to: a whole /8 is what the largest companies have.
WIDEST_V4, WIDEST_V6 = 8, 32
_AMI = re.compile(r"ami-([0-9a-f]{8}|[0-9a-f]{17})")
_PARAMETER = re.compile(r"/[A-Za-z0-9_.\-/]*[A-Za-z0-9_.\-]")
# What EC2 takes as key pairs; it says nothing useful about the others.
_KEY_TYPES = ("ssh-ed25519", "ssh-rsa")
_LEAST_RSA_BITS = 2048


def network_fault(cidr: str) -> str | None:
    """Why `cidr` cannot be a network that may reach the box."""
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return f"`{cidr}` is no network; one address is 203.0.113.7/32, a network 203.0.113.0/24"
    if "/" not in cidr:
        return f"`{cidr}` has no length; one address is {network}"
    if str(ipaddress.ip_interface(cidr).ip) != str(network.network_address):
        return f"`{cidr}` is an address inside a network; the network is {network}, the address alone {_alone(cidr)}"
    return too_wide(cidr)


def too_wide(cidr: str) -> str | None:
    """Why a network is too wide for SSH."""
    network = ipaddress.ip_network(cidr, strict=False)
    widest = WIDEST_V4 if network.version == 4 else WIDEST_V6
    if network.prefixlen == 0:
        return f"`{cidr}` is the whole internet"
    if network.prefixlen < widest:
        return f"`{cidr}` is 1/{2**network.prefixlen} of the whole internet; /{widest} is the widest allowed"
    return None


def _alone(cidr: str) -> str:
    address = ipaddress.ip_interface(cidr).ip
    return f"{address}/{address.max_prefixlen}"


def image_fault(image: str) -> str | None:
    """Why `image` pins nothing: it must be an AMI's id, or the path of an SSM parameter that holds one."""
    if _AMI.fullmatch(image) or is_parameter(image):
        return None
    if image.startswith("ami-"):
        return f"`{image}` is no AMI's id, which is ami- and 8 or 17 hexadecimal digits"
    return f"`{image}` is neither an AMI's id (ami-0123456789abcdef0) nor the path of an SSM parameter (/…)"


def is_parameter(image: str) -> bool:
    """Whether an image is the path of an SSM parameter."""
    return _PARAMETER.fullmatch(image) is not None and "//" not in image


def public_key_fault(key: str) -> str | None:
    """Why `key` is no public key that EC2 takes. Never repeats a key: it may be a private one."""
    if "PRIVATE KEY" in key:
        return "it is a private key; take the file that ends with .pub, and make a new pair, for this one was shown"
    if len(key.strip().splitlines()) != 1:
        return "it is not one line; a public key is one, as in `ssh-ed25519 AAAA… you@host`"
    kind, _, rest = key.strip().partition(" ")
    if kind not in _KEY_TYPES:
        return f"it does not begin with {' or '.join(_KEY_TYPES)}, which are what EC2 takes"
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
        fields = list(_ssh_fields(blob))
    except (binascii.Error, struct.error, ValueError):
        fields = []
    if len(fields) != {"ssh-ed25519": 2, "ssh-rsa": 3}[kind] or fields[0] != kind.encode():
        return f"its second word is no {kind} key; was it cut?"
    if kind == "ssh-rsa" and (bits := int.from_bytes(fields[2], "big").bit_length()) < _LEAST_RSA_BITS:
        return f"it is an RSA key of {bits} bits; {_LEAST_RSA_BITS} is the least"
    return None


def _ssh_fields(blob: bytes) -> Iterator[bytes]:
    """The strings in a key's blob (RFC 4251, section 5: a length of four bytes, then as many bytes)."""
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        if len(blob) < 4 + length:
            raise ValueError("cut")
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]


def security_group_faults(name: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a security group: its name, and rules that open SSH to nearly everybody."""
    if str(properties.get("name") or name).startswith("sg-"):
        yield "a security group's name must not begin with sg-, which AWS keeps for ids"
    for rule in properties.get("ingress") or ():
        yield from ingress_faults(rule)


def ingress_faults(rule: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one rule for what comes in, inline or a resource of its own."""
    if not _covers_ssh(rule):
        return
    cidrs: Sequence[str] = (*(rule.get("cidrBlocks") or ()), *(rule.get("ipv6CidrBlocks") or ()))
    single = (rule.get("cidrIpv4"), rule.get("cidrIpv6"))
    for cidr in (*cidrs, *(each for each in single if each)):
        if fault := too_wide(cidr):
            yield f"SSH is open too wide: {fault}"


def _covers_ssh(rule: Mapping[str, Any]) -> bool:
    if str(rule.get("protocol", rule.get("ipProtocol"))) in ("-1", "all"):
        return True
    return int(rule.get("fromPort") or 0) <= SSH_PORT <= int(rule.get("toPort") or 0)


def _part(properties: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return properties.get(name) or {}


def instance_faults(properties: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an EC2 instance: image, metadata service, root volume."""
    image = str(properties.get("ami", ""))
    if not _AMI.fullmatch(image):
        yield f"its image `{image}` is not pinned by an AMI's id"
    if _part(properties, "metadataOptions").get("httpTokens") != "required":
        yield "its metadata service answers without a token (IMDSv1): set metadata_options.http_tokens to required"
    if not _part(properties, "rootBlockDevice").get("encrypted"):
        yield "its root volume is not encrypted"
    for device in properties.get("ebsBlockDevices") or ():
        if not device.get("encrypted"):
            yield f"its volume {device.get('deviceName', '')} is not encrypted"


def volume_faults(properties: Mapping[str, Any], *, protected: bool, may_be_unprotected: bool) -> Iterator[str]:
    """What is wrong with a data volume. `may_be_unprotected`: the stack says so (`infbox:protectData` false)."""
    if not properties.get("encrypted"):
        yield "the volume is not encrypted"
    if not protected and not may_be_unprotected:
        yield "the volume is not protected: `pulumi destroy` would delete models and KV cache"
