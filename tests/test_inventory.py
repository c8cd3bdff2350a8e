"""Inventories against Ansible itself: the merge of presets, the stack's script, and the validation of hosts."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infbox.host import check_host, check_machine, check_membership
from infbox.preset import Hierarchy, load_hierarchy, load_preset
from infbox.variables import Variable, Variables
from test_preset import checkout

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LAYERS = """\
all:
  children:
    cpu: {children: {mybox: {children: {deep: {}}}, zeta: {}}}
    quiet: {children: {mybox: {}, zeta: {}, deep: {}}}
"""


def environment(**more: str) -> dict[str, str]:
    """The process's own environment without what would configure Ansible from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PULUMI_"))}
    return kept | {"PATH": f"{BIN}:/usr/bin:/bin", "ANSIBLE_NOCOLOR": "1"} | more


def ansible(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = [str(BIN / command[0]), *command[1:]]
    return subprocess.run(words, cwd=root, env=environment(**more), capture_output=True, text=True, timeout=120)


def playable(root: Path, preset: str = "vllm_dtype: auto\n", host_in: str = "cpu") -> Path:
    """A checkout with this repository's own validation, one host `box` and a role with a default."""
    checkout(root, {"cpu": preset, "mybox": "{}"})
    shutil.copytree(REPOSITORY / "ansible/plugins/action", root / "ansible/plugins/action")
    shutil.copy(REPOSITORY / "ansible/validate.yml", root / "ansible/validate.yml")
    (root / "ansible/site.yml").write_text("- import_playbook: validate.yml\n- {hosts: all, roles: [vllm]}\n")
    (root / "roles/vllm/defaults").mkdir()
    (root / "roles/vllm/defaults/main.yml").write_text("vllm_max_model_len: 8192\n")
    (root / "hosts.yml").write_text(f"{host_in}: {{hosts: {{box: {{ansible_connection: local}}}}}}\n")
    settings = "[defaults]\nroles_path = roles\naction_plugins = ansible/plugins/action\n"
    (root / "ansible.cfg").write_text(
        settings + "inventory = inventories/presets.yml,hosts.yml\n[inventory]\nany_unparsed_is_failed = true\n"
    )
    return root


def validate(root: Path, *options: str) -> tuple[int, str]:
    """Run the validation; the exit status, and all that a person sees."""
    done = ansible(root, "ansible-playbook", "ansible/validate.yml", *options)
    return done.returncode, done.stdout + done.stderr


# --- presets as groups


@pytest.mark.parametrize("name", ["cpu", "quiet", "mybox", "zeta", "deep"])
def test_presets_merge_as_ansible_merges_groups(tmp_path: Path, name: str) -> None:
    files = {
        "cpu": "vllm_dtype: auto\nvllm_extra: {of: cpu, only: cpu}\nvllm_flags: [cpu]\nvllm_share: 1\n",
        "quiet": "vllm_dtype: float32\nvllm_extra: {of: quiet}\nvllm_share: 2\n",
        "mybox": "vllm_flags: [mybox]\nvllm_root: /mybox\n",
        "zeta": "vllm_flags: [zeta]\n",
        "deep": "vllm_root: /deep\nvllm_eager: true\n",
    }
    root = checkout(tmp_path, files, LAYERS)
    (root / "hosts.yml").write_text(f"{name}: {{hosts: {{box: {{}}}}}}\n")
    done = ansible(root, "ansible-inventory", "-i", "inventories/presets.yml", "-i", "hosts.yml", "--host", "box")
    oracle = json.loads(done.stdout)
    assert oracle, done.stderr
    assert load_preset(root, name).values == oracle


def test_the_repositorys_own_inventories_are_read_by_ansible() -> None:
    inventories = ["-i", "inventories/presets.yml", "-i", "inventories/local.yml"]
    done = ansible(REPOSITORY, "ansible-inventory", *inventories, "--list")
    groups = json.loads(done.stdout)
    assert groups["cpu"]["hosts"] == ["localhost"], done.stderr
    assert groups["_meta"]["hostvars"]["localhost"]["ansible_connection"] == "local"


# --- one host, one preset

HIERARCHY = Hierarchy({"cpu": (), "mybox": ("cpu",), "dev32": ()})


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"cpu"}, ""),
        ({"cpu", "mybox", "other"}, ""),
        (set(), "host `box` is in no preset's group"),
        ({"other"}, "host `box` is in no preset's group"),
        ({"cpu", "dev32"}, "host `box` is in the groups of unrelated presets, `cpu` and `dev32`"),
        ({"cpu", "mybox", "dev32"}, "host `box` is in the groups of unrelated presets, `mybox` and `dev32`"),
        ({"mybox"}, "host `box` is in `mybox`, but not in `cpu`, which that preset builds on"),
    ],
)
def test_a_host_is_in_one_preset_and_in_those_above_it(groups: set[str], said: str) -> None:
    assert [problem.message for problem in check_membership(HIERARCHY, "box", groups)] == ([said] if said else [])


def test_a_host_outside_the_hierarchy_is_told_to_name_it() -> None:
    (problem,) = check_membership(HIERARCHY, "box", {"mybox"})
    assert "-i inventories/presets.yml" in problem.hint


def test_ansibles_own_names_are_not_taken_for_misspelled_ones(tmp_path: Path) -> None:
    root = checkout(tmp_path, {"cpu": "{}"}, "all: {children: {cpu: {}}}")
    near = Variable("play_host", role="play", type="str", description="")
    values = {"play_hosts": ["box"], "group_names": ["cpu"], "ansible_host": "x", "__play_probe": 1}
    assert check_host(Variables(root, {"play_host": near}), "box", {"cpu"}, values) == []
    (problem,) = check_host(Variables(root, {"play_host": near}), "box", {"cpu"}, {"plays_host": 1})
    assert problem.hint == "did you mean `play_host`?"


# --- the validation, run by Ansible


def test_a_right_host_passes_unchanged_also_in_check_mode_and_without_a_connection(tmp_path: Path) -> None:
    root = playable(tmp_path, host_in="mybox")
    (root / "hosts.yml").write_text("mybox: {hosts: {box: {ansible_host: 192.0.2.1}}}\n")
    for options in ([], ["--check"]):
        status, seen = validate(root, *options)
        assert status == 0, seen
        assert "ok=1    changed=0" in seen
        assert "WARNING" not in seen


def test_every_problem_of_a_host_is_in_one_message_with_its_place(tmp_path: Path) -> None:
    root = playable(tmp_path, preset="vllm_max_modle_len: 1\nvllm_eager: 1\n")
    (root / "host_vars").mkdir()
    (root / "host_vars/box.yml").write_text("vlm_dtype: auto\n")
    status, seen = validate(root, "-e", "vllm_max_model_len=4096", "-e", '{"vllm_dtype": "flaot32"}')
    assert status == 2
    for line in (
        "5 problems:",
        "- inventories/group_vars/cpu.yml:1: no role declares `vllm_max_modle_len`",
        "did you mean `vllm_max_model_len`?",
        "- inventories/group_vars/cpu.yml:2: `vllm_eager` is 1 (an integer), but must be true or false",
        "- host_vars/box.yml:1: no role declares `vlm_dtype`",
        '- -e: `vllm_max_model_len` is "4096" (a string), but must be an integer',
        """write JSON: -e '{"vllm_max_model_len": value}'""",
        '- -e: `vllm_dtype` cannot be "flaot32" (a string)',
        "hint: mend these, then run the same command again",
    ):
        assert line in seen, seen


def test_templates_are_resolved_before_they_are_checked_and_facts_are_waited_for(tmp_path: Path) -> None:
    root = playable(tmp_path, preset="{}")
    (root / "inventories/group_vars/all").mkdir()
    wiring = {
        "vllm_share": "{{ vllm_max_model_len / 2 }}",
        "vllm_flags": ["a", "{{ vllm_max_model_len }}"],
        "vllm_tiers": [{"kind": "{{ 'tape' }}"}],
        "vllm_root": "/srv/{{ ansible_facts.hostname }}",
        "vllm_dtype": "{{ omit }}",
        "my_own_helper": "{{ broken | no_such_filter }}",
    }
    (root / "inventories/group_vars/all/wiring.yml").write_text(yaml.safe_dump(wiring))
    status, seen = validate(root)
    assert status == 2
    assert "2 problems:" in seen, seen
    assert "`vllm_flags[1]` is 8192 (an integer), but must be a string" in seen
    assert '`vllm_tiers[0].kind` cannot be "tape"' in seen


def test_a_template_that_cannot_be_resolved_is_one_problem_among_the_others(tmp_path: Path) -> None:
    status, seen = validate(playable(tmp_path), "-e", "vllm_flags={{ [] | no_such_filter }}", "-e", "vllm_prot=1")
    assert status == 2
    assert "`vllm_flags` cannot be resolved: " in seen
    assert "no_such_filter" in seen
    assert "no role declares `vllm_prot`" in seen


def test_ansibles_own_variables_and_a_users_helpers_never_trip_the_validation(tmp_path: Path) -> None:
    root = playable(tmp_path)
    play = yaml.safe_load((root / "ansible/validate.yml").read_text())
    play[0]["gather_facts"] = True
    play[0]["tasks"].insert(0, {"ansible.builtin.command": "true", "register": "__vllm_probe"})
    play[0]["tasks"].insert(0, {"ansible.builtin.set_fact": {"site_name": "x", "models": [], "cpu_count": 2}})
    (root / "ansible/validate.yml").write_text(yaml.safe_dump(play))
    status, seen = validate(root)
    assert status == 0, seen


def test_what_a_role_requires_and_nobody_sets_is_told_before_the_role_runs(tmp_path: Path) -> None:
    root = playable(tmp_path)
    (root / "ansible/site.yml").write_text("- {hosts: all, roles: [vllm, model]}\n")
    status, seen = validate(root)
    assert status == 2
    assert "host `box` has no `model_source`, which role `model` requires" in seen
    assert validate(root, "-e", "model_source=here")[0] == 0


@pytest.mark.parametrize(
    ("preset", "options", "said"),
    [
        ("cpu", (), ""),
        ("cpu", ("-e", '{"vllm_max_model_len": 16384}'), "`vllm_max_model_len` is 16,384"),
        ("cpu", ("-e", '{"vllm_cpu_kvcache_space_gib": 1000}'), "1000"),
        ("cpu", ("-e", '{"redis_maxmemory_gib": 0.5}'), "and `lmcache_l1_size_gib` is 0"),
        ("cpu", ("-e", '{"vllm_cake_mode": "adaptive"}'), "`vllm_cake_mode` is set, and `lmcache_l1_size_gib` is 0"),
        ("dev32", (), ""),
        ("dev32", ("-e", "vllm_build=cpu"), "`vllm_build` is cpu, which uses no GPU"),
        ("cpu", ("-e", "vllm_build=cuda"), "`vllm_build` is cuda, which needs GPUs"),
    ],
)
def test_a_host_whose_model_cannot_be_served_is_refused_before_anything_is_done(
    tmp_path: Path, preset: str, options: tuple[str, ...], said: str
) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(f"{preset}: {{hosts: {{box: {{ansible_host: 192.0.2.1}}}}}}\n")
    inventories = ("-i", "inventories/presets.yml", "-i", str(hosts))
    done = ansible(REPOSITORY, "ansible-playbook", *inventories, "ansible/validate.yml", *options)
    assert done.returncode == (2 if said else 0), done.stdout
    assert said in done.stdout
    assert ("hint: " in done.stdout) == bool(said)
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("says", "problems"),
    [
        ({}, []),
        ({"node_rank": 0, "private_ip": "10.42.0.5", "data_device": "/dev/disk/by-id/nvme-x"}, []),
        ({"node_rank": "0"}, ["`node_rank` of host `box` is '0', which is not a number from 0 to 0"]),
        ({"node_rank": True}, ["`node_rank` of host `box` is True"]),
        ({"node_rank": 1}, ["`node_rank` of host `box` is 1"]),
        ({"private_ip": "10.42.0"}, ["`private_ip` of host `box` is '10.42.0'"]),
        ({"data_device": "vol-0123"}, ["`data_device` of host `box` is 'vol-0123', which is not the path of a device"]),
        ({"hardware_nodes": 2}, ["`node_rank` of host `box` is not set", "`private_ip` of host `box` is not set"]),
        ({"hardware_nodes": 2, "node_rank": 1, "private_ip": "fd00::5"}, []),
    ],
)
def test_what_an_inventory_says_of_a_machine_has_the_shape_of_a_stacks_output(
    says: dict[str, Any], problems: list[str]
) -> None:
    found = check_machine("box", says)
    assert len(found) == len(problems)
    for problem, said in zip(found, problems, strict=True):
        assert problem.message.startswith(said)


def test_a_wrong_machine_is_told_by_the_validation(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yml"
    wrong, right = "data_device: sdf, node_rank: 7", "private_ip: 192.0.2.2, node_rank: 0"
    hosts.write_text(f"cpu: {{hosts: {{box: {{{wrong}}}, right: {{{right}}}}}}}\n")
    inventories = ("-i", "inventories/presets.yml", "-i", str(hosts))
    done = ansible(REPOSITORY, "ansible-playbook", *inventories, "ansible/validate.yml")
    assert done.returncode == 2
    assert "2 problems:" in done.stdout
    assert "`data_device` of host `box` is 'sdf'" in done.stdout
    assert "`node_rank` of host `box` is 7" in done.stdout
    assert "host `right`" not in done.stdout


def test_an_inventory_without_hosts_fails_instead_of_doing_nothing(tmp_path: Path) -> None:
    root = playable(tmp_path)
    (root / "hosts.yml").write_text("cpu: {}\n")
    status, seen = validate(root)
    assert status == 2
    assert "the inventory has no hosts" in seen
    assert "-i inventories/local.yml" in seen


def test_an_ansible_without_the_package_says_which_one_to_use(tmp_path: Path) -> None:
    root = playable(tmp_path)
    hidden = tmp_path / "hidden/infbox"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('No module named infbox')\n")
    done = ansible(root, "ansible-playbook", "ansible/validate.yml", PYTHONPATH=str(hidden.parent))
    assert done.returncode == 2
    assert "where the package `infbox` is not installed" in done.stdout + done.stderr
    assert "run `make setup`, then use `.venv/bin/ansible-playbook`" in done.stdout + done.stderr


# --- the stack's inventory


def pulumi(folder: Path, script: str) -> str:
    """A PATH whose `pulumi` is this script."""
    folder.mkdir()
    program = folder / "pulumi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:/usr/bin:/bin"


def stack(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "inventories/stack.sh"), *arguments]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=30, cwd="/")


def test_the_stacks_output_is_the_inventory(tmp_path: Path) -> None:
    inventory = {"dev32": {"hosts": ["box-0"]}, "_meta": {"hostvars": {"box-0": {"ansible_host": "192.0.2.1"}}}}
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))
    wanted = 'test "$*" = "stack output inventory --json --non-interactive" && test -f ansible/validate.yml'
    path = pulumi(tmp_path / "bin", f"{wanted} && cat {tmp_path}/inventory.json")
    done = stack(path, "--list")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, inventory, "")
    assert stack(path, "--host", "box-0").stdout == "{}\n"


@pytest.mark.parametrize("fault", ["error: no stack selected", "error: current stack does not have output 'inventory'"])
def test_without_a_stack_the_script_says_which_command_selects_one(tmp_path: Path, fault: str) -> None:
    done = stack(pulumi(tmp_path / "bin", f'echo "{fault}" >&2; exit 1'), "--list")
    assert (done.returncode, done.stdout) == (1, "")
    assert fault in done.stderr
    for words in ("no Pulumi stack with hosts is selected", "hint: ", "pulumi stack select NAME", "./bootstrap.sh"):
        assert words in done.stderr


def test_a_script_with_a_stacks_name_hands_out_that_stack(tmp_path: Path) -> None:
    path = pulumi(tmp_path / "bin", 'test "$1" = stack && echo "${PULUMI_STACK:-the selected one}"')
    values = {name: load_preset(REPOSITORY, name).values for name in load_hierarchy(REPOSITORY).names}
    stacks = {name for name, value in values.items() if value.get("hardware_aws_instance_type")}
    scripts = {file.stem: file for file in (REPOSITORY / "inventories").glob("*.sh")}
    assert set(scripts) == {*stacks, "stack"}
    for name, script in scripts.items():
        done = subprocess.run([script, "--list"], env={"PATH": path}, capture_output=True, text=True, timeout=30)
        assert done.stdout.strip() == ("the selected one" if name == "stack" else name), done.stderr


def test_a_stack_without_hosts_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    path = pulumi(tmp_path / "bin", "echo \"error: no stack named 'dev32' found\" >&2; exit 255")
    done = ansible(REPOSITORY, "ansible-inventory", "-i", "inventories/dev32.sh", "--list", PATH=f"{BIN}:{path}")
    assert done.returncode != 0
    for words in ("no stack named 'dev32' found", "the Pulumi stack dev32 has no hosts", "make up PRESET=dev32"):
        assert words in done.stderr, done.stderr


def test_without_pulumi_the_script_says_the_same(tmp_path: Path) -> None:
    done = stack("/usr/bin:/bin", "--list")
    assert done.returncode == 1
    assert "make demo" in done.stderr


def test_a_bare_playbook_run_shows_the_scripts_words_and_fails(tmp_path: Path) -> None:
    done = ansible(REPOSITORY, "ansible-playbook", "ansible/validate.yml", PATH=f"{BIN}:/usr/bin:/bin")
    assert done.returncode != 0
    assert "pulumi stack select NAME" in done.stderr


def test_the_script_is_clean_in_shellchecks_eyes() -> None:
    done = subprocess.run([BIN / "shellcheck", REPOSITORY / "inventories/stack.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
