"""What the Pulumi program declares. See stack_program.py for how it is run."""

import json
from pathlib import Path

import pulumi
import pytest
import yaml
from stack_program import ROOT

from checks import instance_faults, security_group_faults, volume_faults

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulumi_aws")


def rules(declared):
    return {
        (rule["fromPort"], cidr)
        for rule in declared.one("SecurityGroup")["ingress"]
        for cidr in [*rule.get("cidrBlocks", []), *rule.get("ipv6CidrBlocks", [])]
    }


def test_nobody_but_the_named_networks_reaches_ssh_and_https(deploy):
    declared = deploy(sshCidrs=["203.0.113.7/32", "2001:db8::/48"])
    assert rules(declared) == {
        (22, "203.0.113.7/32"),
        (22, "2001:db8::/48"),
        (443, "203.0.113.7/32"),
        (443, "2001:db8::/48"),
    }


def test_https_can_have_networks_of_its_own(deploy):
    assert rules(deploy(httpsCidrs=["198.51.100.0/24"])) == {(22, "203.0.113.7/32"), (443, "198.51.100.0/24")}


def test_the_inventory_has_the_shape_that_ansible_reads(deploy):
    assert deploy(idleStopMinutes="30").outputs["inventory"] == {
        "_meta": {
            "hostvars": {
                "dev32-0": {
                    "ansible_host": "198.51.100.10",
                    "ansible_user": "ubuntu",
                    "private_ip": "10.42.0.10",
                    "data_device": "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0",
                    "node_rank": 0,
                    "idle_stop_after_minutes": 30,
                }
            }
        },
        "dev32": {"hosts": ["dev32-0"]},
    }


def test_outputs_name_what_tools_and_people_need(deploy):
    outputs = deploy().outputs
    assert outputs["endpoint"] == "https://198.51.100.10/v1"
    assert "Host infbox-dev32-0\n    HostName 198.51.100.10\n    User ubuntu\n" in outputs["ssh_config"]
    assert outputs["instance_ids"] == ["infbox-dev32-0-id"]
    assert outputs["data_volume_ids"] == ["vol-0123456789abcdef0"]
    assert (outputs["zone"], outputs["region"]) == ("us-east-1a", "us-east-1")


@pytest.mark.parametrize("preset", ["cpu", "dev32", "prod480", "prod480_int4", "agents16"])
def test_every_stack_passes_the_checks_of_the_policy_pack(deploy, preset):
    declared = deploy(preset)
    (name,) = declared.all("SecurityGroup")
    assert not list(security_group_faults(name, declared.one("SecurityGroup")))
    assert not list(instance_faults(declared.one("Instance")))
    protected = declared.options("Volume").protect
    assert not list(volume_faults(declared.one("Volume"), protected=protected, may_be_unprotected=False))


def test_a_stack_of_another_name_takes_the_preset_that_it_names(deploy):
    declared = deploy("alice", preset="agents16")
    assert declared.one("Instance")["instanceType"] == "g4dn.2xlarge"
    assert declared.outputs["inventory"]["agents16"] == {"hosts": ["alice-0"]}


def test_the_data_volume_is_protected_unless_the_stack_says_otherwise(deploy):
    assert deploy().options("Volume").protect is True
    assert deploy(protectData="false").options("Volume").protect is False


def test_the_data_volume_is_made_only_where_the_machine_was_and_does_not_need_it(deploy):
    declared = deploy()
    made = [type_.rpartition(":")[2] for type_, _ in declared.requests]
    assert made.index("Instance") < made.index("Volume")
    # `pulumi destroy --exclude-protected` keeps what a protected resource depends on: nothing that costs money.
    assert list(declared.options("Volume").dependencies) == []


def test_a_volume_and_a_machine_are_never_doubled_when_they_are_replaced(deploy):
    declared = deploy()
    assert declared.options("Instance").deleteBeforeReplace
    assert declared.options("VolumeAttachment").deleteBeforeReplace


def test_a_changed_key_does_not_replace_the_machine_and_a_changed_image_does(deploy):
    assert list(deploy().options("Instance").ignoreChanges) == ["keyName"]


def test_an_image_by_parameter_stays_when_the_parameter_changes(deploy):
    declared = deploy(image="/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id")
    assert declared.one("Instance")["ami"] == "ami-0c0ffee0000002203"
    assert sorted(declared.options("Instance").ignoreChanges) == ["ami", "keyName"]


def test_a_box_may_stop_itself_and_has_no_right_in_aws_but_session_manager(deploy):
    declared = deploy()
    assert declared.one("Instance")["instanceInitiatedShutdownBehavior"] == "stop"
    assert declared.one("RolePolicyAttachment")["policyArn"].endswith("/AmazonSSMManagedInstanceCore")
    assert not declared.all("RolePolicy")


def test_spot_stops_when_it_is_interrupted(deploy):
    market = deploy(purchase="spot").one("Instance")["instanceMarketOptions"]
    assert market["marketType"] == "spot"
    assert market["spotOptions"] == {"spotInstanceType": "persistent", "instanceInterruptionBehavior": "stop"}


def test_a_capacity_block_is_bought_by_its_reservation(deploy):
    instance = deploy("prod480", purchase="capacity-block", capacityReservationId="cr-0123456789abcdef0").one(
        "Instance"
    )
    assert instance["instanceMarketOptions"] == {"marketType": "capacity-block"}
    target = instance["capacityReservationSpecification"]["capacityReservationTarget"]
    assert target == {"capacityReservationId": "cr-0123456789abcdef0"}


def test_what_aws_does_not_sell_that_way_is_refused_before_anything_is_declared(deploy):
    with pytest.raises(pulumi.RunError, match=r"capacity-block, which AWS does not offer for g6e.2xlarge"):
        deploy(purchase="capacity-block", capacityReservationId="cr-0123456789abcdef0")


def test_an_existing_subnet_decides_the_zone_and_no_network_is_made(deploy):
    declared = deploy(vpcId="vpc-0123456789abcdef0", subnetId="subnet-0123456789abcdef0")
    assert not declared.all("Vpc")
    assert declared.one("Volume")["availabilityZone"] == "us-east-1c"
    assert declared.one("Instance")["subnetId"] == "subnet-0123456789abcdef0"


def test_a_subnet_of_another_vpc_is_refused(deploy):
    with pytest.raises(pulumi.RunError, match="is in vpc-0123456789abcdef0"):
        deploy(vpcId="vpc-0fedcba9876543210", subnetId="subnet-0123456789abcdef0")


def test_nothing_is_asked_of_aws_that_is_not_needed(deploy):
    assert deploy().calls == []


def test_another_zone_is_another_subnet_beside_the_old_one(deploy):
    first, second = deploy().one("Subnet"), deploy(zone="b").one("Subnet")
    assert (first["availabilityZone"], second["availabilityZone"]) == ("us-east-1a", "us-east-1b")
    assert first["cidrBlock"] != second["cidrBlock"]


def test_the_guards_are_off_unless_they_are_set(deploy):
    declared = deploy()
    assert not declared.all("Schedule")
    assert not declared.all("Budget")
    assert "idle_stop_after_minutes" not in declared.outputs["inventory"]["_meta"]["hostvars"]["dev32-0"]


def test_office_hours_start_and_stop_these_machines_and_no_others(deploy):
    declared = deploy(officeHours={"start": "08:00", "stop": "19:30", "timezone": "Europe/Berlin"})
    schedules = declared.all("Schedule")
    start, stop = schedules["infbox-dev32-start"], schedules["infbox-dev32-stop"]
    assert start["scheduleExpression"] == "cron(0 8 ? * MON-FRI *)"
    assert stop["scheduleExpression"] == "cron(30 19 ? * MON-FRI *)"
    assert {each["scheduleExpressionTimezone"] for each in (start, stop)} == {"Europe/Berlin"}
    assert stop["target"]["arn"].endswith(":stopInstances")
    assert json.loads(stop["target"]["input"]) == {"InstanceIds": ["infbox-dev32-0-id"]}
    (statement,) = json.loads(declared.one("RolePolicy")["policy"])["Statement"]
    assert statement["Resource"] == ["arn:aws:ec2:us-east-1:123456789012:instance/i-0"]
    assert statement["Action"] == ["ec2:StartInstances", "ec2:StopInstances"]
    trust = json.loads(declared.all("Role")["infbox-dev32-hours"]["assumeRolePolicy"])["Statement"][0]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_a_budget_writes_a_letter_before_it_is_spent(deploy):
    budget = deploy(budget={"monthlyUsd": 500, "email": "you@example.com"}).one("Budget")
    assert (budget["limitAmount"], budget["timeUnit"]) == ("500.00", "MONTHLY")
    assert {each["notificationType"] for each in budget["notifications"]} == {"FORECASTED", "ACTUAL"}
    assert all(each["subscriberEmailAddresses"] == ["you@example.com"] for each in budget["notifications"])


def test_a_preset_without_a_machine_on_aws_names_those_that_have_one(deploy):
    with pytest.raises(pulumi.RunError, match=r"AWS has no machine of the preset `a6000x2`[\s\S]*cpu, dev32, prod480"):
        deploy("a6000x2")


@pytest.fixture
def own_preset(monkeypatch, tmp_path):
    """A checkout of its own, with a preset `mine` below dev32; returns a function that writes its values."""
    for name in ("inventories", "roles", "ansible"):
        (tmp_path / name).mkdir()
    for path in [
        *ROOT.glob("inventories/group_vars/**/*.yml"),
        *ROOT.glob("roles/*/*/*.yml"),
        *ROOT.glob("ansible/*.yml"),
    ]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    hierarchy = (ROOT / "inventories/presets.yml").read_text()
    (tmp_path / "inventories/presets.yml").write_text(
        hierarchy.replace("    dev32: {}", "    dev32:\n      children:\n        mine: {}")
    )

    def write(**values):
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
        (tmp_path / "inventories/group_vars/mine.yml").write_text(f"---\n{text}\n")
        monkeypatch.setattr("infbox.preset.find_root", lambda start: tmp_path)

    return write


def test_a_model_that_does_not_fit_is_refused_with_what_would(deploy, own_preset):
    own_preset(hardware_gpus="1xT4", hardware_aws_instance_type="g4dn.2xlarge", hardware_ram_gib=32)
    with pytest.raises(pulumi.RunError, match=r"the preset `mine` does not fit: [\s\S]*hint: "):
        deploy("mine")


def test_a_machine_without_the_planned_gpus_is_refused(deploy, own_preset):
    own_preset(hardware_aws_instance_type="g6.2xlarge")
    with pytest.raises(pulumi.RunError, match=r"g6.2xlarge has 1xL4, but `hardware_gpus` is 1xL40S"):
        deploy("mine")


def test_a_machine_with_less_ram_is_refused(deploy, own_preset):
    own_preset(hardware_aws_instance_type="g6e.xlarge")
    with pytest.raises(pulumi.RunError, match=r"g6e.xlarge has 32 GiB of RAM, but `hardware_ram_gib` is 64"):
        deploy("mine")


def test_several_nodes_are_close_together_with_efa_on_every_network_card(deploy, own_preset):
    own_preset(hardware_nodes=2, hardware_aws_instance_type="g6e.24xlarge")
    declared = deploy("mine")
    assert declared.one("PlacementGroup")["strategy"] == "cluster"
    cards = declared.all("NetworkInterface")
    assert {name: card["interfaceType"] for name, card in cards.items()} == {
        "infbox-mine-0": "efa",
        "infbox-mine-0-1": "efa-only",
        "infbox-mine-1": "efa",
        "infbox-mine-1-1": "efa-only",
    }
    assert any(rule.get("self") for rule in declared.one("SecurityGroup")["ingress"])
    assert any(rule.get("self") for rule in declared.one("SecurityGroup")["egress"])
    assert declared.outputs["inventory"]["mine"]["hosts"] == ["mine-0", "mine-1"]
    hosts = declared.outputs["inventory"]["_meta"]["hostvars"]
    assert [hosts[name]["node_rank"] for name in ("mine-0", "mine-1")] == [0, 1]


def test_a_domain_opens_80_and_443_to_the_acme_authority_and_gets_its_record(deploy, own_preset):
    own_preset(caddy_domain="llm.example.com")
    declared = deploy("mine", dnsZoneId="Z0123456789ABC")
    everywhere = {(port, cidr) for port in (80, 443) for cidr in ("0.0.0.0/0", "::/0")}
    assert rules(declared) == {(22, "203.0.113.7/32"), *everywhere}
    assert declared.one("Record")["name"] == "llm.example.com"
    assert declared.outputs["endpoint"] == "https://llm.example.com/v1"


def test_named_networks_for_https_hold_beside_a_domain(deploy, own_preset):
    own_preset(caddy_domain="llm.example.com")
    declared = deploy("mine", httpsCidrs=["198.51.100.0/24"])
    assert rules(declared) == {(22, "203.0.113.7/32"), (443, "198.51.100.0/24"), (80, "0.0.0.0/0"), (80, "::/0")}


def test_a_sites_own_acme_authority_opens_nothing_to_the_world(deploy, own_preset):
    own_preset(caddy_domain="llm.corp", caddy_acme_directory="https://ca.corp/acme")
    assert rules(deploy("mine")) == {(port, "203.0.113.7/32") for port in (22, 80, 443)}


def test_a_dns_zone_without_a_name_to_put_into_it_is_refused(deploy):
    with pytest.raises(pulumi.RunError, match="has no `caddy_domain`"):
        deploy(dnsZoneId="Z0123456789ABC")


def test_committed_stack_files_hold_the_region_and_patience_alone():
    for path in sorted(Path(ROOT).glob("Pulumi.*.yaml")):
        assert set(yaml.safe_load(path.read_text())["config"]) == {"aws:region", "aws:maxRetries"}, path
