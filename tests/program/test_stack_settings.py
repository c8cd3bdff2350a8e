"""What a stack's configuration may be, and what is said of what may not."""

import base64
import struct

import pytest
from stack_program import REQUIRED

from infbox.errors import StackError
from settings import read_settings


def read(stack="dev32", secret=frozenset(), **settings):
    given = REQUIRED | {f"infbox:{key}": value for key, value in settings.items()}
    return read_settings({key: value for key, value in given.items() if value is not None}, stack, frozenset(secret))


def refusal(**settings):
    with pytest.raises(StackError) as caught:
        read(**settings)
    return str(caught.value)


def rsa_key(bits):
    parts = (b"ssh-rsa", b"\1\0\1", (1 << (bits - 1)).to_bytes(bits // 8 + 1, "big"))
    return "ssh-rsa " + base64.b64encode(b"".join(struct.pack(">I", len(part)) + part for part in parts)).decode()


def test_every_missing_setting_is_named_with_its_command_in_one_message():
    with pytest.raises(StackError) as caught:
        read_settings({}, "dev32")
    said = str(caught.value)
    for command in (
        "pulumi config set aws:region us-east-1 --stack dev32",
        "pulumi config set aws:maxRetries 5 --stack dev32",
        """pulumi config set infbox:sshCidrs '["203.0.113.7/32"]' --stack dev32""",
        "pulumi config set infbox:image ami-0123456789abcdef0 --stack dev32",
        'pulumi config set infbox:sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)" --stack dev32',
    ):
        assert command in said


def test_defaults_are_the_careful_ones():
    settings = read()
    assert settings.preset == "dev32"
    assert settings.zone == "us-east-1a"
    assert settings.protect_data
    assert settings.purchase == "on-demand"
    assert settings.office_hours is settings.budget is settings.idle_stop_minutes is None


@pytest.mark.parametrize(
    ("cidrs", "said"),
    [
        ('["0.0.0.0/0"]', "is the whole internet"),
        ('["::/0"]', "is the whole internet"),
        ('["0.0.0.0/1", "128.0.0.0/1"]', "1/2 of the whole internet"),
        ('["2000::/3"]', "1/8 of the whole internet"),
        ('["203.0.113.7/24"]', "the network is 203.0.113.0/24, the address alone 203.0.113.7/32"),
        ('["203.0.113.7"]', "has no length"),
        ('["my-home"]', "is no network"),
        ("[]", "at least one network"),
        ("[1]", "is no text"),
        ('{"a": 1}', "must be a list"),
        ("203.0.113.7/32", "is no JSON"),
        ("", "is no JSON"),
    ],
)
def test_networks_that_cannot_be_are_refused(cidrs, said):
    assert said in refusal(sshCidrs=cidrs)
    assert said in refusal(httpsCidrs=cidrs)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("ubuntu-24.04", "neither an AMI's id"),
        ("ami-12", "8 or 17 hexadecimal digits"),
        ("", "neither an AMI's id"),
        ("//x", "neither"),
        ("ami-0c0ffee0000002204\n", "8 or 17"),
    ],
)
def test_an_image_is_an_id_or_a_parameters_path(image, said):
    assert said in refusal(image=image)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----", "private key"),
        ("ssh-ed25519 AAAA", "was it cut"),
        ("ssh-ed25519 " + "A" * 68, "was it cut"),
        ("ecdsa-sha2-nistp256 AAAA", "does not begin with ssh-ed25519 or ssh-rsa"),
        ("ssh-ed25519 AAAA\nssh-ed25519 AAAA", "not one line"),
        ("", "not one line"),
        (rsa_key(1024), "1024 bits; 2048 is the least"),
    ],
)
def test_a_key_that_is_no_public_key_is_refused_and_never_repeated(key, said):
    message = refusal(sshPublicKey=key)
    assert said in message
    assert "b3BlbnNzaC1rZXk" not in message


def test_a_good_rsa_key_is_taken():
    assert read(sshPublicKey=rsa_key(3072)).ssh_public_key == rsa_key(3072)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("purchase", "sport", "did you mean spot?"),
        ("protectData", "no", "must be true or false"),
        ("idleStopMinutes", "-1", "whole number of minutes"),
        ("idleStopMinutes", "1e3", "whole number of minutes"),
        ("zone", "eu-west-1a", "no zone of us-east-1"),
        ("sshUser", "root; rm -rf /", "must be a user's name"),
        ("vpcId", "vpc", "a VPC's id"),
        ("dnsZoneId", "example.com", "a Route 53 zone's id"),
        ("officeHours", '{"start": "8", "stop": "19:00"}', "`start` must be a time as in 08:00"),
        ("officeHours", '{"start": "08:00", "stop": "08:00"}', "at the same time"),
        ("officeHours", '{"start": "08:00"}', "lacks `stop`"),
        ("officeHours", '{"start": "08:00", "stop": "19:00", "days": "always"}', "`days` must be as in MON-FRI"),
        ("officeHours", '{"start": "08:00", "stop": "19:00", "when": "x"}', "has no part `when`"),
        ("officeHours", "[]", "must be a mapping"),
        ("budget", '{"monthlyUsd": "many", "email": "you@example.com"}', "a number of US dollars"),
        ("budget", '{"monthlyUsd": 5, "email": "you"}', "`email` must be an address"),
        ("sshCidr", '["203.0.113.7/32"]', "did you mean `infbox:sshCidrs`?"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key(key, value, said):
    message = refusal(**{key: value})
    assert said in message
    assert f"infbox:{key}" in message


@pytest.mark.parametrize("value", ["25", "0", "many", ""])
def test_retries_are_few(value):
    with pytest.raises(StackError, match="aws:maxRetries"):
        read_settings(REQUIRED | {"aws:maxRetries": value}, "dev32")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vpcId": "vpc-0123456789abcdef0"}, "infbox:subnetId"),
        ({"subnetId": "subnet-0123456789abcdef0"}, "infbox:vpcId"),
        ({"purchase": "reservation"}, "needs `infbox:capacityReservationId`"),
        ({"capacityReservationId": "cr-0123456789abcdef0"}, "but `infbox:purchase` is on-demand"),
        (
            {"vpcId": "vpc-0123456789abcdef0", "subnetId": "subnet-0123456789abcdef0", "zone": "b"},
            "cannot be chosen in an existing subnet",
        ),
    ],
)
def test_settings_that_exclude_or_need_one_another_are_named(settings, said):
    assert said in refusal(**settings)


@pytest.mark.parametrize("guard", [{"idleStopMinutes": "30"}, {"officeHours": '{"start": "08:00", "stop": "19:00"}'}])
def test_a_machine_that_is_paid_already_is_not_stopped(guard):
    said = refusal(purchase="capacity-block", capacityReservationId="cr-0123456789abcdef0", **guard)
    assert "is paid already" in said


def test_a_secret_value_is_not_shown():
    assert "198.51.100.77" not in refusal(httpsCidrs='["198.51.100.77/24"]', secret={"infbox:httpsCidrs"})


def test_a_stacks_name_must_do_as_a_name_of_what_it_makes():
    assert "a stack cannot be named" in refusal(stack="x" * 41)
