#!/usr/bin/env python3
"""`make up`: a box on AWS, from a preset to an answer; `make stop-box`, `make start-box`, `make down`.

    hosts/stack.py up --preset dev32 [--stack alice] [--yes]
    hosts/stack.py stop|start --stack dev32
    hosts/stack.py down --stack dev32 [--yes]

`up` is four commands that a person can also type: validate, `pulumi up`, wait, `ansible-playbook`. Nothing remembers
that it ran: what was killed is simply run again. It runs in .venv; `pulumi_stack.py` speaks to Pulumi, `ec2.py` to AWS,
`nodes.py` to the machines.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ec2
import nodes
from pulumi_stack import CAPACITY_FAULTS, QUOTA_FAULTS, PulumiStack, Resource

from infbox.errors import InfboxError
from infbox.preset import load_preset
from infbox.strict_yaml import read_mapping

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# What these ways of buying have paid for is in one zone, and nowhere else.
TIED_TO_A_ZONE = ("reservation", "capacity-block")


def stage(name: str) -> None:
    """Announce the next stage."""
    print(f"==> {name}", flush=True)


def confirm(question: str, yes: bool) -> None:
    """Go on only with a person's consent: `yes` beforehand, or an answer now."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InfboxError("there is nobody here to say yes", "add YES=1 (or --yes) to do it without a question")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise InfboxError("not done", "answer y to do it")


def folder_of(stack: str) -> Path:
    """Where what this machine knows of a stack's machines lies: the SSH configuration and host keys."""
    return ROOT / ".build" / "stacks" / stack


# --- up


def preset_values(preset: str) -> dict[str, Any]:
    """A preset's variables, with the defaults of role hardware below them."""
    defaults = read_mapping(ROOT / "roles/hardware/defaults/main.yml").values
    return {**defaults, **load_preset(ROOT, preset).values}


def validate(preset: str, values: dict[str, Any]) -> None:
    """Refuse what cannot converge, before it costs anything: the preset, the plan, and what Ansible would say."""
    if not values["hardware_aws_instance_type"]:
        raise InfboxError(
            f"AWS has no machine of the preset `{preset}` ({values['hardware_gpus']})",
            "on a machine of your own: ./bootstrap.sh; or set `hardware_aws_instance_type` in a preset below it",
        )
    for words in (["preset", "check", preset], ["plan", preset]):
        if subprocess.run([BIN / "infbox", *words], cwd=ROOT).returncode:
            raise InfboxError(f"nothing was made: `infbox {' '.join(words)}` says why above", "mend the preset first")
    address = {"ansible_host": "192.0.2.1", "private_ip": "192.0.2.1"}
    hosts = {f"{preset}-{rank}": {**address, "node_rank": rank} for rank in range(values["hardware_nodes"])}
    with tempfile.TemporaryDirectory() as folder:
        made_up = Path(folder) / "made-up.yml"
        made_up.write_text(json.dumps({preset: {"hosts": hosts}}))
        if playbook("ansible/validate.yml", "-i", str(made_up)):
            raise InfboxError(
                f"nothing was made: a box of the preset `{preset}` could not be converged; Ansible says why above",
                "mend the preset, or take another one",
            )


def playbook(*words: str, **environment: str) -> int:
    """Run ansible-playbook with the presets' groups; its exit status."""
    command = [str(BIN / "ansible-playbook"), "-i", "inventories/presets.yml", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode


def settle_preset(stack: PulumiStack, preset: str, config: dict[str, str]) -> None:
    """Have the stack's configuration name the preset, where the stack's own name does not."""
    has = config.get("infbox:preset", stack.name if stack.name == preset else "")
    if not has:
        stack.set_config("infbox:preset", preset)
    elif has != preset:
        raise InfboxError(
            f"the stack `{stack.name}` is of the preset `{has}`, not `{preset}`",
            f"make up PRESET={has} STACK={stack.name}, or move it: "
            f"pulumi config set infbox:preset {preset} --stack {stack.name}",
        )


def region_of(stack: PulumiStack, config: dict[str, str]) -> ec2.Region:
    """The stack's region."""
    if "aws:region" not in config:
        raise InfboxError("`aws:region` is not set", f"pulumi config set aws:region us-east-1 --stack {stack.name}")
    return ec2.Region(config["aws:region"], config.get("aws:profile", ""))


def zones_to_try(stack: PulumiStack, config: dict[str, str], instance_type: str) -> list[str]:
    """The zones in which the machine may be, in the order in which to try them; empty where no choice is left."""
    if config.get("infbox:purchase") in TIED_TO_A_ZONE or "infbox:subnetId" in config or stack.data_volumes():
        return []
    region = region_of(stack, config)
    offered = region.zones_with(instance_type)
    if not offered:
        raise InfboxError(
            f"the region {region.name} has no {instance_type}",
            f"take another region: pulumi config set aws:region us-east-1 --stack {stack.name}",
        )
    wanted = config.get("infbox:zone", "a")
    wanted = f"{region.name}{wanted}" if len(wanted) == 1 else wanted
    return sorted(offered, key=lambda zone: zone != wanted)


def make_machine(stack: PulumiStack, config: dict[str, str], instance_type: str, yes: bool) -> None:
    """`pulumi up`; where a zone has no machine to give, in the next one, until a data volume fixes the zone."""
    zones = zones_to_try(stack, config, instance_type)
    chosen = zones[0] if zones else config.get("infbox:zone", "")
    if zones and config.get("infbox:zone", "a") not in (chosen, chosen[-1]):
        print(f"    {instance_type} is not offered in zone {config.get('infbox:zone', 'a')}; {chosen} it is")
        stack.set_config("infbox:zone", chosen)
    stack.preview()
    confirm("Make this? It costs money until `make stop-box` or `make down`.", yes)
    left = zones[1:]
    while True:
        done, said = stack.up()
        if done:
            return
        if not CAPACITY_FAULTS.search(said):
            raise up_fault(stack, said)
        volumes = stack.data_volumes()
        if not zones:
            raise tied_fault(stack, instance_type, volumes)
        if not left:
            raise InfboxError(
                f"AWS has no {instance_type} to give now in {', '.join(sorted(zones))}",
                "run `make up` again later, or in another region: "
                f"pulumi config set aws:region us-west-2 --stack {stack.name}",
            )
        # A volume that this very run made is empty: it may be replaced, protected or not.
        for volume in volumes:
            if volume.protected:
                stack.let_go(volume)
        chosen, left = left[0], left[1:]
        stage(f"AWS has no {instance_type} to give there; trying {chosen}")
        stack.set_config("infbox:zone", chosen)


def up_fault(stack: PulumiStack, said: str) -> InfboxError:
    """A `pulumi up` that failed for another reason than capacity."""
    hint = "run `make up` again: it goes on where this one stopped"
    if QUOTA_FAULTS.search(said):
        hint = "the account may not run as many CPUs of this kind: ask for more in AWS's console, Service Quotas, EC2"
    return InfboxError(f"`pulumi up --stack {stack.name}` failed; it says why above", hint)


def tied_fault(stack: PulumiStack, instance_type: str, volumes: list[Resource]) -> InfboxError:
    """No capacity in the one zone where the stack can be."""
    if not volumes:
        message = f"AWS has no {instance_type} to give in the stack's zone, which its subnet or reservation fixes"
        return InfboxError(message, "run `make up` again later, or name another subnet or reservation")
    zone, volume = volumes[0].outputs.get("availabilityZone", "its zone"), volumes[0]
    return InfboxError(
        f"AWS has no {instance_type} to give in {zone}, and the data volume {volume.id} is there",
        "run `make up` again later. If what it holds can be had again, let go of it, and `make up` finds another zone: "
        f"pulumi state unprotect '{volume.urn}' --stack {stack.name} --yes; make down STACK={stack.name}",
    )


def reach(stack: PulumiStack) -> tuple[Path, list[nodes.Node], dict[str, Any]]:
    """Wait until every machine of the stack takes logins; the SSH configuration, the machines, the stack's outputs."""
    outputs = stack.outputs()
    found = nodes.nodes_of(outputs)
    config = nodes.write_ssh_config(folder_of(stack.name), found)
    for node in found:
        print(f"    {node.name} at {node.address}", flush=True)
        nodes.wait_for_login(config, node)
    return config, found, outputs


def up(preset: str, name: str, yes: bool) -> None:
    """Make the machine and have it answer."""
    stage(f"does the preset {preset} hold together? Nothing is made yet")
    values = preset_values(preset)
    validate(preset, values)
    stage(f"the Pulumi stack {name}")
    stack = PulumiStack(ROOT, name)
    stack.select()
    config = stack.config()
    settle_preset(stack, preset, config)
    stage(f"pulumi up: {values['hardware_nodes']} of {values['hardware_aws_instance_type']}")
    make_machine(stack, config, values["hardware_aws_instance_type"], yes)
    stage("until the machine takes SSH logins, and cloud-init says that it is done")
    ssh_config, found, outputs = reach(stack)
    for node in found:
        for line in nodes.wait_for_cloud_init(ssh_config, node):
            print(f"    {node.name}: {line}")
    stage(f"site.yml with preset {preset}")
    arguments = f"-F {shlex.quote(str(ssh_config))}"
    status = playbook(
        "-i", "inventories/stack.sh", "site.yml", f"--ssh-common-args={arguments}", PULUMI_STACK=name
    )  # fmt: skip
    shown = os.path.relpath(ssh_config)
    if status:
        raise InfboxError(
            "the playbook stopped; its message stands above",
            f"look at the box with `ssh -F {shown} {found[0].name}`, then run `make up` again",
        )
    print(
        f"\nThe box answers at {outputs.get('endpoint', found[0].address)}. Its first API key, and its own authority:\n"
    )
    print(f"ssh -F {shown} {found[0].name} sudo cat /etc/infbox/keys/default.key")
    print(f"ssh -F {shown} {found[0].name} cat /etc/infbox/ca.crt\n")
    print(f"It costs money until: make stop-box STACK={name}, or make down STACK={name}")


# --- stop, start, down


def stop(name: str) -> None:
    """Stop the stack's instances: only disks and the address cost money then."""
    stack = PulumiStack(ROOT, name)
    ids = instance_ids(stack)
    stopped = region_of(stack, stack.config()).stop(ids)
    print(f"{', '.join(stopped) or 'Nothing ran; ' + ', '.join(ids)} stopped. Again: make start-box STACK={name}")


def start(name: str) -> None:
    """Start the stack's instances and wait until they take logins; the box then comes up by itself."""
    stack = PulumiStack(ROOT, name)
    ids = instance_ids(stack)
    stage(f"start {', '.join(ids)}")
    started = region_of(stack, stack.config()).start(ids)
    print(f"    {', '.join(started) + ' started' if started else 'it ran already'}")
    stage("until the machine takes SSH logins")
    _, _, outputs = reach(stack)
    print(f"It loads its model now, and answers at {outputs.get('endpoint', '')} when it is done.")


def instance_ids(stack: PulumiStack) -> list[str]:
    """The stack's instances."""
    if ids := stack.outputs().get("instance_ids"):
        return ids
    raise InfboxError(f"the stack `{stack.name}` has no machine", f"make up STACK={stack.name}")


def down(name: str, yes: bool) -> None:
    """Delete the stack's machine, network and address; the data volume too, unless it is protected."""
    stack = PulumiStack(ROOT, name)
    kept = [volume for volume in stack.data_volumes() if volume.protected]
    stays = f" All but the data volume {', '.join(volume.id for volume in kept)}, which is protected." if kept else ""
    confirm(f"Delete everything of the stack {name}?{stays}", yes)
    done, _ = stack.destroy()
    if not done:
        raise InfboxError(
            f"`pulumi destroy --stack {name}` failed; it says why above", "run `make down` again: it goes on"
        )
    if not kept:
        print(f"Nothing of the stack {name} is left in AWS.")
        return
    names = ", ".join(volume.id for volume in kept)
    print(f"What stays, and costs money: {names}. `make up` takes it again. To delete it:")
    for volume in kept:
        print(f"  pulumi state unprotect '{volume.urn}' --stack {name} --yes")
    print(f"  make down STACK={name}")


def main() -> int:
    parser = argparse.ArgumentParser(description="A box on AWS.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in {"up": "make it", "start": "start it", "stop": "stop it", "down": "delete it"}.items():
        command = commands.add_parser(name, help=summary)
        command.add_argument("--stack", help="the Pulumi stack (default: the preset's name)")
        command.add_argument("--preset", default="cpu")
        command.add_argument("--yes", action="store_true", help="ask nothing")
    options = parser.parse_args()
    name = options.stack or options.preset
    try:
        if options.command == "up":
            up(options.preset, name, options.yes)
        elif options.command == "down":
            down(name, options.yes)
        else:
            {"start": start, "stop": stop}[options.command](name)
    except InfboxError as fault:
        print(f"\nerror: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
