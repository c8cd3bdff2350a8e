"""Stacks in the simulated AWS: made, changed, failed half-way, gone without a trace. What it lacks is in simulator.py.

Each journey is a checkout of its own with stacks that no other has; `test_journey` waits for them one after the other.
"""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import pytest
from cloud import Refusal
from project import Project

OTHER_IMAGE = "ami-0c0ffee0000002203"
Journey = Callable[[Project], None]


def a_stack_is_made_once_and_leaves_nothing(stack: str, project: Project) -> None:
    project.set_config(stack, protectData=False)
    preview = project.pulumi("preview", "--stack", stack)
    assert project.in_the_cloud(stack) == {}
    made = project.pulumi("up", "--yes", "--stack", stack)
    assert made.counts == preview.counts
    assert set(made.counts) == {"create"}

    again = project.pulumi("up", "--yes", "--stack", stack)
    assert again.counts == {}, again.text

    script = f"inventories/{stack}.sh"
    graph = project.run("ansible-inventory", "-i", "inventories/presets.yml", "-i", script, "--graph", stack)
    assert f"|--{stack}-0" in graph.text.split(), graph.text

    checked = project.run("ansible-playbook", "-i", "inventories/presets.yml", "-i", script, "ansible/validate.yml")
    assert checked.status == 0, checked.text

    project.pulumi("destroy", "--yes", "--stack", stack)
    assert project.in_the_cloud(stack) == {}


def stacks_own(stack: str) -> Journey:
    """The journey of one stack, by a name of its own."""
    own = partial(a_stack_is_made_once_and_leaves_nothing, stack)
    own.__name__ = f"the_stack_{stack}_is_made_once_and_leaves_nothing"  # type: ignore[attr-defined]
    return own


def a_data_volume_grows_in_place_and_outlives_make_down(project: Project) -> None:
    project.set_config("grown", preset="cpu")
    project.pulumi("up", "--yes", "--stack", "grown")
    instance, before = project.describe("grown"), project.volume("grown")

    project.set_in_preset("cpu", storage_data_size_gib=before["Size"] + 100)
    grown = project.pulumi("up", "--yes", "--stack", "grown")
    assert grown.counts == {"update": 1}, grown.text
    after = project.volume("grown")
    assert (after["VolumeId"], after["Size"]) == (before["VolumeId"], before["Size"] + 100)
    assert project.describe("grown")["InstanceId"] == instance["InstanceId"]

    refused = project.run("pulumi", "destroy", "--yes", "--stack", "grown")
    assert refused.status != 0
    assert "protected" in refused.text
    assert project.in_the_cloud("grown")["volumes"] == [before["VolumeId"]]

    down = project.make("down", "--stack", "grown", "--yes")
    assert down.status == 0, down.text
    left = project.in_the_cloud("grown")
    assert left.pop("volumes") == [before["VolumeId"]]
    assert left == {}
    (line,) = [line for line in down.text.splitlines() if "pulumi state unprotect" in line]
    assert project.run("sh", "-c", line).status == 0
    assert project.make("down", "--stack", "grown", "--yes").status == 0
    assert project.in_the_cloud("grown") == {}


def a_replaced_machine_gets_its_data_volume_and_address_back(project: Project) -> None:
    project.set_config("replaced", preset="cpu")
    project.pulumi("up", "--yes", "--stack", "replaced")
    instance, volume = project.describe("replaced"), project.volume("replaced")

    project.set_config("replaced", image=OTHER_IMAGE)
    changed = project.pulumi("up", "--yes", "--stack", "replaced")
    assert changed.resources("delete") == {"Instance", "VolumeAttachment", "EipAssociation"}, changed.text
    assert changed.resources("create") == changed.resources("delete")
    new = project.describe("replaced")
    assert new["InstanceId"] != instance["InstanceId"]
    assert new["ImageId"] == OTHER_IMAGE
    assert new["PublicIpAddress"] == instance["PublicIpAddress"]
    after = project.volume("replaced")
    assert after["VolumeId"] == volume["VolumeId"]
    assert [each["InstanceId"] for each in after["Attachments"]] == [new["InstanceId"]]
    assert project.in_the_cloud("replaced")["instances"] == [new["InstanceId"]]


def an_up_that_failed_half_way_goes_on(project: Project) -> None:
    project.set_config("halfway", preset="cpu")
    project.aws.refusals.append(Refusal("create_volume", "halfway", "InternalFailure", times=1))
    failed = project.run("pulumi", "up", "--yes", "--stack", "halfway")
    assert failed.status != 0
    assert "InternalFailure" in failed.text
    first = project.in_the_cloud("halfway")
    assert "volumes" not in first

    rest = project.pulumi("up", "--yes", "--stack", "halfway")
    assert rest.resources("create") >= {"Volume", "VolumeAttachment"}, rest.text
    assert "Instance" not in rest.resources("create") | rest.resources("replace")
    now = project.in_the_cloud("halfway")
    assert now["instances"] == first["instances"]
    assert all(set(ids) <= set(now[kind]) for kind, ids in first.items())


def make_up_takes_the_next_zone_and_the_box_stops_and_starts(project: Project) -> None:
    # The converge itself needs machines; here it is the validation of the stack's real inventory.
    (project.folder / "ansible/site.yml").write_text("---\n- import_playbook: validate.yml\n")
    calls = project.folder / "ssh-calls"
    project.aws.script("ssh", f'#!/bin/sh\necho "$@" >>{calls}\n')
    refusal = Refusal("run_instances", "zoned", "InsufficientInstanceCapacity", zones=("us-east-1a",))
    project.aws.refusals.append(refusal)
    project.set_config("zoned")
    up = ["up", "--preset", "cpu", "--stack", "zoned"]
    unsaid = project.make(*up)
    assert "there is nobody here to say yes" in unsaid.text, unsaid.text
    assert project.in_the_cloud("zoned") == {}

    made = project.make(*up, "--yes")
    assert made.status == 0, made.text
    assert set(refusal.refused) == {"us-east-1a"}
    assert "AWS has no m7i.xlarge to give there; trying us-east-1b" in made.text, made.text
    cloud = project.in_the_cloud("zoned")
    assert project.volume("zoned")["AvailabilityZone"] == project.describe("zoned")["Placement"]["AvailabilityZone"]
    assert project.volume("zoned")["AvailabilityZone"] == "us-east-1b"
    assert [len(cloud[kind]) for kind in ("instances", "volumes", "subnets")] == [1, 1, 1]
    assert "cloud-init status --wait" in calls.read_text()
    assert "ok=1    changed=0" in made.text, made.text

    again = project.make(*up, "--yes")
    assert again.status == 0, again.text
    assert project.in_the_cloud("zoned") == cloud

    (id_,) = cloud["instances"]
    assert project.make("stop", "--stack", "zoned").status == 0
    assert project.describe("zoned")["State"]["Name"] == "stopped"
    started = project.make("start", "--stack", "zoned")
    assert started.status == 0, started.text
    assert project.describe("zoned")["State"]["Name"] == "running"
    assert f"{id_} started" in started.text

    # Now a data volume fixes the zone, and it has no machine to give.
    refusal.zones = ("us-east-1b",)
    project.set_config("zoned", image=OTHER_IMAGE)
    tied = project.make(*up, "--yes")
    assert tied.status == 1
    assert f"and the data volume {cloud['volumes'][0]} is there" in tied.text, tied.text
    assert project.in_the_cloud("zoned")["volumes"] == cloud["volumes"]


def two_nodes_share_a_placement_group(project: Project) -> None:
    presets = project.folder / "inventories/presets.yml"
    presets.write_text(
        presets.read_text().replace("    disagg8: {}", "    disagg8: {}\n    cpu: {children: {pair: {}}}")
    )
    presets.write_text(presets.read_text().replace("    cpu: {}\n", "", 1))
    project.set_in_preset("pair", hardware_nodes=2)
    project.set_config("pair")
    project.pulumi("up", "--yes", "--stack", "pair")
    cloud = project.in_the_cloud("pair")
    assert [len(cloud[kind]) for kind in ("instances", "volumes", "addresses")] == [2, 2, 2]
    (group,) = cloud["placement groups"]
    assert project.describe("pair")["Placement"]["GroupName"] == group
    script = ["-i", "inventories/presets.yml", "-i", "inventories/stack.sh"]
    project.pulumi("stack", "select", "pair")
    graph = project.run("ansible-inventory", *script, "--graph", "cpu")
    assert graph.text.split() == ["@cpu:", "|--@pair:", "|", "|--pair-0", "|", "|--pair-1"], graph.text


def a_spot_machine_is_asked_for(project: Project) -> None:
    project.set_config("spot", preset="cpu", purchase="spot")
    project.pulumi("up", "--yes", "--stack", "spot")
    assert project.describe("spot")["InstanceLifecycle"] == "spot"
    # Not judged: a second `up`. This cloud does not give back how a machine was asked for.


def what_guards_the_bill_comes_and_goes_by_config(project: Project) -> None:
    hours = {"start": "08:00", "stop": "19:00", "timezone": "Europe/Berlin"}
    guards = {"officeHours": hours, "budget": {"monthlyUsd": 500, "email": "you@example.com"}, "idleStopMinutes": 45}
    project.set_config("guarded", preset="cpu", **guards)
    project.pulumi("up", "--yes", "--stack", "guarded")
    cloud = project.in_the_cloud("guarded")
    assert (len(cloud["schedules"]), len(cloud["budgets"])) == (2, 1)
    inventory = project.output("guarded", "inventory")
    assert inventory["_meta"]["hostvars"]["guarded-0"]["idle_stop_after_minutes"] == 45
    instance = project.describe("guarded")["InstanceId"]
    scheduler = project.aws.client("scheduler")
    targets = [scheduler.get_schedule(Name=name)["Target"] for name in cloud["schedules"]]
    assert all(instance in target["Input"] for target in targets)
    assert {target["Arn"].rpartition(":")[2] for target in targets} == {"startInstances", "stopInstances"}

    project.set_config("guarded", **dict.fromkeys(guards))
    off = project.pulumi("up", "--yes", "--stack", "guarded")
    assert set(off.counts) == {"delete"}, off.text
    left = project.in_the_cloud("guarded")
    assert {"schedules", "budgets"}.isdisjoint(left)
    assert left["instances"] == cloud["instances"]
    assert len(left["roles"]) == len(cloud["roles"]) - 1
    assert "idle_stop_after_minutes" not in project.output("guarded", "inventory")["_meta"]["hostvars"]["guarded-0"]

    project.set_config("guarded", **guards)
    assert set(project.pulumi("up", "--yes", "--stack", "guarded").counts) == {"create"}


JOURNEYS: list[Journey] = [
    make_up_takes_the_next_zone_and_the_box_stops_and_starts,
    a_data_volume_grows_in_place_and_outlives_make_down,
    a_replaced_machine_gets_its_data_volume_and_address_back,
    what_guards_the_bill_comes_and_goes_by_config,
    an_up_that_failed_half_way_goes_on,
    *(stacks_own(stack) for stack in ("cpu", "dev32", "prod480", "prod480_int4", "agents16")),
    two_nodes_share_a_placement_group,
    a_spot_machine_is_asked_for,
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__)
def test_journey(journeys: dict[str, Future[None]], journey: Journey) -> None:
    journeys[journey.__name__].result()
