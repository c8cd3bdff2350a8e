"""The roles' shape: every role that is there, held against the house's rules (style.md's Ansible part).

What lint and Ansible itself do not see: argument specs let misspelled variables through and do not cast, and
nothing else compares a role's defaults with them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, nodes

from infbox.preset import check_presets, common_files, load_hierarchy, preset_file
from infbox.variables import TYPES, jinja_in, load_variables

ROOT = Path(__file__).resolve().parents[1]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
VARIABLES = load_variables(ROOT)
MANAGED = re.compile(r"\{\{ ansible_managed \| comment(\(.*\))? \}\}")

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


class AnsibleLoader(yaml.SafeLoader):
    """Reads Ansible's own tags as plain strings."""


for tag in ("!unsafe", "!vault"):
    AnsibleLoader.add_constructor(tag, lambda loader, node: loader.construct_scalar(node))


def read(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=AnsibleLoader)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, outermost first."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner)


def tasks_of(role: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted([*role.glob("tasks/**/*.yml"), *role.glob("handlers/**/*.yml")]):
        for task in mappings(read(path)):
            yield path, task


def options_of(role: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every option of a role's spec by its path, those inside others too."""

    def walk(options: dict[str, Any], above: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, option in options.items():
            yield f"{above}{name}", option
            yield from walk(option.get("options") or {}, f"{above}{name}.")

    for entry in read(role / "meta/argument_specs.yml")["argument_specs"].values():
        yield from walk(entry.get("options") or {}, "")


def names_used(template: str) -> set[str]:
    """The variables that a template reads and does not set itself."""
    names = list(Environment(extensions=["jinja2.ext.do"]).parse(template).find_all(nodes.Name))
    return {name.name for name in names if name.ctx == "load"} - {name.name for name in names if name.ctx != "load"}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


@every_role
def test_a_role_has_its_files(role: Path) -> None:
    for file in ("defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml"):
        assert (role / file).is_file(), f"roles/{role.name}/{file} is missing"


@every_role
def test_the_roles_readme_has_a_line_for_it(role: Path) -> None:
    assert re.search(rf"\b{role.name}\b", (ROOT / "roles/README.md").read_text())


@every_role
def test_each_default_is_declared_and_of_its_type(role: Path) -> None:
    for name, value in (read(role / "defaults/main.yml") or {}).items():
        if name.startswith("__"):
            continue
        assert name in VARIABLES.by_name, f"roles/{role.name}/meta/argument_specs.yml does not declare `{name}`"
        assert VARIABLES.by_name[name].role == role.name
        assert jinja_in(value) is not None or VARIABLES.check(name, value) == []


@every_role
def test_a_required_variable_has_no_default(role: Path) -> None:
    defaults = read(role / "defaults/main.yml") or {}
    declared = VARIABLES.by_name.values()
    assert [each.name for each in declared if each.role == role.name and each.required and each.name in defaults] == []


@every_role
def test_each_declared_variable_carries_the_roles_name(role: Path) -> None:
    names = [name for name, _ in options_of(role) if "." not in name]
    assert [name for name in names if not name.startswith((f"{role.name}_", "__"))] == []


@every_role
def test_a_spec_has_description_and_type_and_no_default(role: Path) -> None:
    for name, option in options_of(role):
        where = f"roles/{role.name}/meta/argument_specs.yml: `{name}`"
        assert option.get("description"), f"{where} has no description"
        assert option.get("type") in TYPES, f"{where} has no type, or one that is unknown"
        assert "default" not in option, f"{where} repeats its default, which would drift"
        assert option["type"] != "list" or option.get("elements"), f"{where} does not say what its elements are"


@every_role
def test_what_a_role_registers_or_sets_is_internal(role: Path) -> None:
    for path, task in tasks_of(role):
        facts = next((task[key] for key in ("ansible.builtin.set_fact", "set_fact") if key in task), {})
        set_ = [*(name for name in facts if name != "cacheable"), *([task["register"]] if "register" in task else [])]
        assert [name for name in set_ if not name.startswith("__")] == [], path.relative_to(ROOT)


@every_role
def test_each_template_says_that_it_is_managed(role: Path) -> None:
    for path in sorted(role.glob("templates/**/*.j2")):
        if path.name.endswith(".json.j2"):
            continue  # JSON has no comments
        assert MANAGED.fullmatch(path.read_text().splitlines()[0]), path.relative_to(ROOT)


@every_role
def test_a_role_reads_no_variable_that_nobody_declares(role: Path) -> None:
    for path in sorted([*role.glob("templates/**/*.j2"), *role.glob("**/*.yml")]):
        texts = [path.read_text()] if path.suffix == ".j2" else strings(read(path))
        for name in sorted(set().union(*map(names_used, texts))):
            assert not VARIABLES.looks_misspelled(name), f"{path.relative_to(ROOT)}: {VARIABLES.unknown(name).message}"


@every_role
def test_a_condition_reads_no_variable_that_nobody_declares(role: Path) -> None:
    for path, task in tasks_of(role):
        for key in ("when", "until", "changed_when", "failed_when"):
            for condition in strings([task.get(key)]):
                for name in names_used("{{ " + condition + " }}"):
                    assert not VARIABLES.looks_misspelled(name), (
                        f"{path.relative_to(ROOT)}: {VARIABLES.unknown(name).message}"
                    )


def test_every_preset_is_without_a_problem() -> None:
    assert [f"{problem.sentence} ({problem.hint})" for problem in check_presets(ROOT)] == []


def test_the_wiring_reads_no_variable_that_nobody_declares() -> None:
    for path in common_files(ROOT):
        unknown = [name for text in strings(read(path)) for name in names_used(text) if name not in VARIABLES.by_name]
        assert [name for name in unknown if VARIABLES.looks_misspelled(name)] == [], path.relative_to(ROOT)


def test_group_vars_say_only_what_a_role_declares() -> None:
    files = [*common_files(ROOT), *(ROOT / preset_file(name) for name in load_hierarchy(ROOT).names)]
    for path in files:
        unknown = set(read(path) or {}) - set(VARIABLES.by_name)
        assert not unknown, f"{path.relative_to(ROOT)}: no role declares {sorted(unknown)}"
