"""hosts/stack.py and what it works with: which zone is next, what is refused before it costs money, when a box is up.

Pulumi and SSH are stand-ins on the PATH here; tests/aws has the whole road with a simulated AWS.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodes
import pytest
import stack
from pulumi_stack import PulumiStack, Resource

from infbox.errors import InfboxError

REPOSITORY = Path(__file__).resolve().parents[1]
NO_CAPACITY = (False, "error: InsufficientInstanceCapacity: We currently do not have sufficient g6e.2xlarge capacity")
NOT_THERE = (
    False,
    "Unsupported: Your requested instance type (g6e.2xlarge) is not supported in your requested Availability Zone",
)
DONE = (True, "")
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]


class FakeStack:
    """A stack that notes what is asked of it. `ups`: what each `up` comes to; `made`: the volumes the first makes."""

    name = "alice"

    def __init__(
        self, ups: list[tuple[bool, str]], volumes: tuple[Resource, ...] = (), made: tuple[Resource, ...] = ()
    ):
        self.ups, self.volumes, self.made, self.did = ups, volumes, made, []

    def data_volumes(self) -> list[Resource]:
        return list(self.volumes)

    def preview(self) -> None:
        self.did.append("preview")

    def up(self) -> tuple[bool, str]:
        self.did.append("up")
        self.volumes, self.made = (*self.volumes, *self.made), ()
        return self.ups.pop(0)

    def set_config(self, key: str, value: str) -> None:
        self.did.append(f"{key} {value}")

    def let_go(self, resource: Resource) -> None:
        self.did.append(f"let go of {resource.id}")


def volume(id_: str = "vol-1") -> Resource:
    return Resource(f"urn:{id_}", id_, "aws:ebs/volume:Volume", True, {"availabilityZone": "us-east-1a"})


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The zones that have the machine, in a region that is asked for them."""
    zones = list(ZONES)

    class Region:
        name = "us-east-1"

        def __init__(self, *_: str) -> None: ...

        def zones_with(self, _: str) -> list[str]:
            return zones

    monkeypatch.setattr("ec2.Region", Region)
    return zones


def make(fake: FakeStack, **config: str) -> list[str]:
    known = {"aws:region": "us-east-1"} | {f"infbox:{key}": value for key, value in config.items()}
    stack.make_machine(fake, known, "g6e.2xlarge", yes=True)  # type: ignore[arg-type]
    return fake.did


# --- zones


def test_the_next_zone_is_taken_until_one_has_a_machine(offers: list[str]) -> None:
    did = make(FakeStack([NO_CAPACITY, NOT_THERE, DONE]))
    assert did == ["preview", "up", "infbox:zone us-east-1b", "up", "infbox:zone us-east-1c", "up"]


def test_the_configured_zone_is_the_first_to_be_tried(offers: list[str]) -> None:
    assert make(FakeStack([NO_CAPACITY, DONE]), zone="b") == ["preview", "up", "infbox:zone us-east-1a", "up"]
    assert make(FakeStack([DONE]), zone="us-east-1c") == ["preview", "up"]


def test_a_zone_that_does_not_offer_the_machine_is_left_before_anything_is_made(offers: list[str]) -> None:
    del offers[0]
    assert make(FakeStack([DONE])) == ["infbox:zone us-east-1b", "preview", "up"]


def test_each_zone_is_tried_once(offers: list[str]) -> None:
    fake = FakeStack([NO_CAPACITY] * 9)
    with pytest.raises(InfboxError, match="to give now in us-east-1a, us-east-1b, us-east-1c") as fault:
        make(fake)
    assert fake.did.count("up") == 3
    assert "in another region" in fault.value.hint


def test_a_region_without_the_machine_is_refused_before_anything_is_made(offers: list[str]) -> None:
    offers.clear()
    fake = FakeStack([])
    with pytest.raises(InfboxError, match=r"the region us-east-1 has no g6e.2xlarge"):
        make(fake)
    assert fake.did == []


@pytest.mark.parametrize(
    ("said", "hint"), [("AuthFailure", "run `make up` again"), ("VcpuLimitExceeded: You have requested", "Quotas")]
)
def test_another_fault_than_capacity_is_not_tried_elsewhere(offers: list[str], said: str, hint: str) -> None:
    fake = FakeStack([(False, said)])
    with pytest.raises(InfboxError) as fault:
        make(fake)
    assert (fake.did, hint in fault.value.hint) == (["preview", "up"], True)


def test_a_data_volume_fixes_the_zone(offers: list[str]) -> None:
    fake = FakeStack([NO_CAPACITY], volumes=(volume(),))
    with pytest.raises(InfboxError, match="to give in us-east-1a, and the data volume vol-1 is there") as fault:
        make(fake)
    assert fake.did == ["preview", "up"]
    assert "pulumi state unprotect 'urn:vol-1' --stack alice" in fault.value.hint


def test_a_volume_that_this_run_made_is_empty_and_holds_nothing_back(offers: list[str]) -> None:
    fake = FakeStack([NO_CAPACITY, DONE], made=(volume("vol-2"),))
    assert make(fake) == ["preview", "up", "let go of vol-2", "infbox:zone us-east-1b", "up"]


@pytest.mark.parametrize("config", [{"purchase": "capacity-block"}, {"purchase": "reservation"}, {"subnetId": "s"}])
def test_what_is_paid_for_in_one_zone_is_tried_nowhere_else(offers: list[str], config: dict[str, str]) -> None:
    fake = FakeStack([NO_CAPACITY])
    with pytest.raises(InfboxError, match="which its subnet or reservation fixes"):
        make(fake, **config)
    assert fake.did == ["preview", "up"]


def test_nothing_is_made_without_a_yes(offers: list[str]) -> None:
    fake = FakeStack([DONE])
    with pytest.raises(InfboxError, match="nobody here to say yes"):
        stack.make_machine(fake, {"aws:region": "us-east-1"}, "g6e.2xlarge", yes=False)  # type: ignore[arg-type]
    assert fake.did == ["preview"]


def test_a_stack_keeps_its_preset() -> None:
    fake: Any = FakeStack([])
    stack.settle_preset(fake, "dev32", {})
    assert fake.did == ["infbox:preset dev32"]
    stack.settle_preset(fake, "dev32", {"infbox:preset": "dev32"})
    with pytest.raises(InfboxError, match="the stack `alice` is of the preset `cpu`, not `dev32`"):
        stack.settle_preset(fake, "dev32", {"infbox:preset": "cpu"})
    fake.name = "dev32"
    stack.settle_preset(fake, "dev32", {})
    assert fake.did == ["infbox:preset dev32"]


# --- refused before it costs money


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program on the PATH, by its name and its shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


def run_up(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "hosts/stack.py"), "up", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("nope", "there is no preset `nope`"),
        ("a6000x2", "AWS has no machine of the preset `a6000x2` (2xA6000)"),
    ],
)
def test_a_preset_that_cannot_become_a_box_never_meets_pulumi(
    tmp_path: Path, program: Any, preset: str, said: str
) -> None:
    program("pulumi", f"touch {tmp_path}/asked")
    done = run_up("--preset", preset, "--yes")
    assert done.returncode == 1
    assert said in done.stderr, done.stdout + done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "asked").exists()


def test_what_ansible_would_refuse_is_refused_before(capfd: pytest.CaptureFixture[str]) -> None:
    values = {**stack.preset_values("cpu"), "hardware_nodes": 2}  # of which the preset itself knows nothing
    with pytest.raises(InfboxError, match="nothing was made: a box of the preset `cpu` could not be converged"):
        stack.validate("cpu", values)
    assert "`node_rank` of host `cpu-1` is 1" in capfd.readouterr().out


def test_without_the_pulumi_command_a_person_learns_where_to_get_it(program: Any) -> None:
    done = run_up("--preset", "cpu", "--yes")
    assert done.returncode == 1
    assert "there is no `pulumi` command" in done.stderr, done.stdout + done.stderr
    assert "https://www.pulumi.com/docs/install/" in done.stderr


# --- the command pulumi


def test_pulumi_is_asked_by_stack_and_secrets_stay_where_they_are(tmp_path: Path, program: Any) -> None:
    config = {
        "infbox:zone": {"value": "b"},
        "infbox:sshPublicKey": {"secret": True},
        "x": {"value": "y", "secret": True},
    }
    program("pulumi", f"""test "$*" = "config --json --stack alice --non-interactive" && echo '{json.dumps(config)}'""")
    assert PulumiStack(tmp_path, "alice").config() == {"infbox:zone": "b"}


def test_the_state_tells_what_is_there(tmp_path: Path, program: Any) -> None:
    entries = [
        {"urn": "u1", "type": "pulumi:pulumi:Stack"},
        {"urn": "u2", "id": "vol-1", "type": "aws:ebs/volume:Volume", "protect": True, "outputs": {"size": 1}},
        {"urn": "u3", "id": "i-1", "type": "aws:ec2/instance:Instance"},
    ]
    program("pulumi", f"""echo '{json.dumps({"version": 3, "deployment": {"resources": entries}})}'""")
    assert PulumiStack(tmp_path, "alice").data_volumes() == [
        Resource("u2", "vol-1", entries[1]["type"], True, {"size": 1})
    ]
    program("pulumi", """echo '{"version": 3, "deployment": {}}'""")
    assert PulumiStack(tmp_path, "alice").data_volumes() == []


def test_what_pulumi_refuses_is_passed_on_in_its_words(tmp_path: Path, program: Any) -> None:
    program("pulumi", "echo 'error: passphrase must be set' >&2; exit 255")
    with pytest.raises(InfboxError, match="error: passphrase must be set"):
        PulumiStack(tmp_path, "alice").data_volumes()


def test_a_person_sees_what_pulumi_does_and_so_does_the_program(
    tmp_path: Path, program: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    program("pulumi", 'echo "creating $*"; echo InsufficientInstanceCapacity >&2; exit 255')
    done, said = PulumiStack(tmp_path, "alice").up()
    assert not done
    assert stack.CAPACITY_FAULTS.search(said)
    assert "creating up --yes --skip-preview --stack alice" in capfd.readouterr().out


# --- the machines


def outputs(**values: object) -> dict[str, Any]:
    host = {"ansible_host": "192.0.2.7", "ansible_user": "ubuntu", "node_rank": 0} | values
    return {"inventory": {"_meta": {"hostvars": {"dev32-0": host}}}, "instance_ids": ["i-1"]}


def test_sshs_own_reading_of_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    config = nodes.write_ssh_config(folder, nodes.nodes_of(outputs()))
    for name in ("dev32-0", "192.0.2.7"):
        read = subprocess.run(["ssh", "-G", "-F", config, name], capture_output=True, text=True, check=True).stdout
        for line in (
            "hostname 192.0.2.7",
            "user ubuntu",
            "hostkeyalias i-1",
            f"userknownhostsfile {folder}/known_hosts",
            "stricthostkeychecking accept-new",
        ):
            assert line in read.splitlines(), read


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "has no hosts"),
        ({"inventory": {"dev32": {"hosts": []}, "_meta": {"hostvars": {}}}}, "has no hosts"),
        (outputs(ansible_host=""), "host `dev32-0` of the stack has no `ansible_host`"),
    ],
)
def test_a_stack_without_reachable_machines_is_told_apart(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InfboxError, match=message):
        nodes.nodes_of(said)


def test_nodes_come_by_rank() -> None:
    hosts = {f"x-{rank}": {"ansible_host": "h", "ansible_user": "u", "node_rank": rank} for rank in (10, 9, 0)}
    found = nodes.nodes_of({"inventory": {"_meta": {"hostvars": hosts}}, "instance_ids": ["i-0", "i-9", "i-10"]})
    assert [(node.name, node.instance_id) for node in found] == [("x-0", "i-0"), ("x-9", "i-9"), ("x-10", "i-10")]


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, nodes.Node]:
    (node,) = nodes.nodes_of(outputs())
    return nodes.write_ssh_config(tmp_path / "stack", [node]), node


def test_a_machine_that_boots_is_waited_for(tmp_path: Path, program: Any, machine: tuple[Path, nodes.Node]) -> None:
    counter = tmp_path / "tries"
    program(
        "ssh", f'echo x >>{counter}; test $(wc -l <{counter}) = 3 || {{ echo "Connection refused" >&2; exit 255; }}'
    )
    waits: list[float] = []
    nodes.wait_for_login(*machine, sleep=waits.append)
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("ubuntu@192.0.2.7: Permission denied (publickey).", "ssh-add"),
        ("ssh: connect to host 192.0.2.7 port 22: Connection timed out", "infbox:sshCidrs"),
        ("", "make up"),
    ],
)
def test_a_machine_that_lets_nobody_in_is_given_up(
    program: Any, machine: tuple[Path, nodes.Node], said: str, hint: str
) -> None:
    program("ssh", f"echo '{said}' >&2; exit 255")
    with pytest.raises(InfboxError, match="takes no SSH login within 0 s") as fault:
        nodes.wait_for_login(*machine, seconds=0, sleep=lambda _: None)
    assert hint in fault.value.hint
    assert said in fault.value.message


def test_a_changed_host_key_is_not_waited_out(program: Any, machine: tuple[Path, nodes.Node]) -> None:
    program("ssh", "echo '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @' >&2; exit 255")
    with pytest.raises(InfboxError, match="another host key than before"):
        nodes.wait_for_login(*machine, sleep=lambda _: pytest.fail("it tried again"))


@pytest.mark.parametrize(
    ("script", "notes"), [("echo ....; echo status: done", []), ("echo 'recoverable_errors: x'; exit 2", ["x"])]
)
def test_cloud_inits_word_ends_the_wait(
    program: Any, machine: tuple[Path, nodes.Node], script: str, notes: list[str]
) -> None:
    program("ssh", script)
    found = nodes.wait_for_cloud_init(*machine)
    assert len(found) == len(notes)
    assert all(note in line for note, line in zip(notes, found, strict=True))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf '..\\nstatus: error\\nerrors:\\n  - no such package\\n'; exit 1", "no such package"),
        ("echo 'sh: cloud-init: not found' >&2; exit 127", "has no cloud-init"),
        ("exec sleep 9", "is not done within 0 s"),
        ("exit 255", "it does not say why"),
    ],
)
def test_a_failed_cloud_init_is_shown(program: Any, machine: tuple[Path, nodes.Node], script: str, said: str) -> None:
    program("ssh", script)
    with pytest.raises(InfboxError, match=said) as fault:
        nodes.wait_for_cloud_init(*machine, seconds=0.4 if "sleep" in script else 30)
    assert fault.value.hint


def test_the_ssh_configuration_is_for_its_owner_alone(machine: tuple[Path, nodes.Node]) -> None:
    assert os.stat(machine[0].parent).st_mode & 0o77 == 0
