"""Presets: what a box is, as files of group_vars, and the only code that reads them.

A preset `dev32` is the file `inventories/group_vars/dev32.yml` and a group of that name in
`inventories/presets.yml`, which holds the hierarchy and nothing else. A preset below another takes the other's
values and replaces some of them: exactly what Ansible does with a child group, for it is one.

What a value may be is declared by the roles (`infbox.variables`); what a host makes of it in an Ansible run is
checked by `infbox.host`. Every function takes the checkout's root, the folder that holds `inventories/`.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from infbox.errors import PresetError
from infbox.strict_yaml import Document, read_mapping
from infbox.variables import Problem, Variables, jinja_in, load_variables, nearest_name, problems_error

HIERARCHY = Path("inventories/presets.yml")
GROUP_VARS = Path("inventories/group_vars")
PLAYBOOK = Path("ansible/site.yml")
_GROUP_NAME = re.compile(r"\w+")
# What Ansible takes for a group's name without a warning, and Pulumi for a stack's.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
CHECK = "infbox preset check"


@dataclass(frozen=True)
class Preset:
    """A preset with its parents' values merged in.

    `parents` are farthest first; `sources` has for each name in `values` the file that it comes from,
    relative to the root.
    """

    name: str
    parents: tuple[str, ...]
    values: dict[str, Any]
    sources: dict[str, Path]


@dataclass(frozen=True)
class Hierarchy:
    """The groups of `inventories/presets.yml`: each preset's direct parents, in the file's order of presets."""

    parents: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parents)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The presets that none builds on; one above may leave a value to those below it."""
        above = {parent for parents in self.parents.values() for parent in parents}
        return tuple(name for name in self.parents if name not in above)

    def depth(self, name: str) -> int:
        """The longest way up to a preset without a parent, which has depth 0."""
        return max((self.depth(parent) + 1 for parent in self.parents[name]), default=0)

    def chain(self, name: str) -> tuple[str, ...]:
        """The preset and all above it in the order in which Ansible merges groups: by depth, then by name."""
        found: set[str] = set()
        open_ = [name]
        while open_:
            found.add(current := open_.pop())
            open_ += self.parents[current]
        return tuple(sorted(found, key=lambda each: (self.depth(each), each)))


def find_root(start: Path) -> Path:
    """The checkout that `start` lies in; failing that, the one this package was installed from.

    Raises:
        PresetError: neither is a checkout.
    """
    for folder in [start, *start.parents, *Path(__file__).resolve().parents]:
        if (folder / HIERARCHY).is_file():
            return folder
    raise PresetError(f"{start} is in no checkout of infbox: no {HIERARCHY} above it", "cd to the checkout")


def load_hierarchy(root: Path) -> Hierarchy:
    """Read `inventories/presets.yml`.

    Raises:
        PresetError: it holds more than a hierarchy, has a circle, or a name that is none.
    """
    path = root / HIERARCHY
    document = read_mapping(path)
    parents: dict[str, tuple[str, ...]] = {}
    if set(document.values) != {"all"}:
        raise PresetError(f"{path} must hold the one group `all`", "put presets under all: children:")
    _collect_groups(path, "all", document.values["all"], parents)
    hierarchy = Hierarchy(parents)
    try:
        for name in parents:
            hierarchy.depth(name)
    except RecursionError as fault:
        raise PresetError(f"{path} puts a preset below itself", "take one of its lines out") from fault
    return hierarchy


def load_preset(root: Path, name: str) -> Preset:
    """The preset `name`, checked and merged.

    Raises:
        PresetError: there is none of that name, or it or one above it has a problem; names every problem.
    """
    hierarchy = load_hierarchy(root)
    chain = hierarchy.chain(known_name(hierarchy, name))
    if problems := _check_chain(root, chain, load_variables(root)):
        raise problems_error(problems, f"`{CHECK} {name}`")
    return merge(root, chain)


def merge(root: Path, chain: tuple[str, ...]) -> Preset:
    """Merge the files of a chain: a later one's value replaces an earlier one's whole."""
    values: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for name in chain:
        file = preset_file(name)
        for key, value in read_mapping(root / file).values.items():
            values[key] = value
            sources[key] = file
    return Preset(name=chain[-1], parents=chain[:-1], values=values, sources=sources)


def preset_file(name: str) -> Path:
    """The file of a preset, relative to the root."""
    return GROUP_VARS / f"{name}.yml"


def known_name(hierarchy: Hierarchy, name: str) -> str:
    """`name` if it is a preset.

    Raises:
        PresetError: it is none; names the nearest and all.
    """
    if name in hierarchy.parents:
        return name
    if not NAME.fullmatch(name):
        raise PresetError(f"`{name}` is no preset's name", "a name is a letter, then letters, digits and `_`")
    nearest = nearest_name(name, list(hierarchy.names), cutoff=0.5)
    every = f"there are {', '.join(hierarchy.names)}" if hierarchy.names else f"{HIERARCHY} has none"
    raise PresetError(f"there is no preset `{name}`", f"did you mean `{nearest}`? {every}" if nearest else every)


def check_presets(root: Path, name: str | None = None) -> list[Problem]:
    """Every problem of one preset and those above it, or of all presets and of `group_vars/all`.

    Raises:
        PresetError: the hierarchy or the roles' argument specs cannot be read, or there is no such preset.
    """
    hierarchy = load_hierarchy(root)
    variables = load_variables(root)
    if name is not None:
        chain = hierarchy.chain(known_name(hierarchy, name))
        return _check_chain(root, chain, variables) or _check_complete(root, chain, variables)
    problems = _check_folder(root, hierarchy)
    for each in hierarchy.names:
        problems += check_file(root, preset_file(each), variables)
    for path in common_files(root):
        problems += check_file(root, path.relative_to(root), variables, jinja=True)
    if problems:  # what is missing may be what is misspelled
        return problems
    return [problem for leaf in hierarchy.leaves for problem in _check_complete(root, hierarchy.chain(leaf), variables)]


def common_files(root: Path) -> list[Path]:
    """The files of `group_vars/all`, which wire roles together for every preset and may have Jinja."""
    return sorted((root / GROUP_VARS / "all").glob("*.yml"))


def check_file(root: Path, file: Path, variables: Variables, *, jinja: bool = False) -> list[Problem]:
    """Every problem of one file of group_vars. `jinja`: values may be templates, which are then not checked."""
    if not (root / file).exists():
        return [Problem(f"the preset `{file.stem}` has no file", f"write {file}, or take it out of {HIERARCHY}")]
    try:
        document = read_mapping(root / file)
    except PresetError as fault:
        return [Problem(fault.message.replace(f"{root}/", ""), fault.hint)]
    return _check_document(document, file, variables, jinja=jinja)


def check_required(variables: Variables, roles: Set[str], set_: Set[str], who: str) -> list[Problem]:
    """Variables that one of `roles` requires and nobody sets; `who` lacks them."""
    return [
        Problem(
            f"{who} has no `{variable.name}`, which role `{variable.role}` requires",
            f"set it in the preset or the inventory: {variable.description}",
        )
        for variable in variables.by_name.values()
        if variable.required and variable.role in roles and variable.name not in set_
    ]


def roles_of(root: Path, groups: Set[str]) -> set[str]:
    """The roles that `ansible/site.yml` surely runs on a host of these groups and `all`.

    Left out: roles with a `when`, and plays whose `hosts` is more than names of groups. Their required variables
    are Ansible's to miss, when it comes to them.
    """
    path = root / PLAYBOOK
    if not path.is_file():
        return set()
    plays = cast(list[dict[str, Any]], yaml.safe_load(path.read_text()) or [])
    roles: set[str] = set()
    for play in plays:
        hosts: str | list[str] = play.get("hosts", [])
        patterns = {part.strip() for part in (hosts.replace(",", ":").split(":") if isinstance(hosts, str) else hosts)}
        if all(map(_GROUP_NAME.fullmatch, patterns)) and patterns & {"all", *groups}:
            roles |= _unconditional(play.get("roles", []))
    return roles


def _unconditional(entries: Iterable[str | dict[str, Any]]) -> set[str]:
    named = [{"role": entry} if isinstance(entry, str) else entry for entry in entries]
    return {str(entry.get("role", entry.get("name"))) for entry in named if "when" not in entry}


def _check_document(document: Document, file: Path, variables: Variables, *, jinja: bool) -> list[Problem]:
    problems: list[Problem] = []
    for key, value in document.values.items():
        where = f"{file}:{document.lines.get(key, 1)}"
        template = jinja_in(value)
        if key not in variables.by_name:
            problems.append(variables.unknown(key, where))
        elif template is not None and not jinja:
            hint = "write the value itself; what follows from other values belongs in a role's defaults"
            problems.append(Problem(f"`{key}` has Jinja, which presets have not: {template.strip()[:60]}", hint, where))
        elif template is None:
            problems += variables.check(key, value, where)
    return problems


def _check_chain(root: Path, chain: tuple[str, ...], variables: Variables) -> list[Problem]:
    return [problem for name in chain for problem in check_file(root, preset_file(name), variables)]


def _check_complete(root: Path, chain: tuple[str, ...], variables: Variables) -> list[Problem]:
    """What the roles require and neither the chain nor `group_vars/all` nor a role's defaults set."""
    files = [
        *root.glob("roles/*/defaults/main.yml"),
        *common_files(root),
        *(root / preset_file(name) for name in chain),
    ]
    set_ = {name for path in files for name in _top_level_names(path)}
    return check_required(variables, roles_of(root, set(chain)), set_, f"the preset `{chain[-1]}`")


def _top_level_names(path: Path) -> set[str]:
    """The keys of a file, whatever tags and templates its values have."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType]
    return {str(key.value) for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()


def _check_folder(root: Path, hierarchy: Hierarchy) -> list[Problem]:
    """Files in group_vars that are no preset's: Ansible would read some of them, and nobody would check them."""
    problems: list[Problem] = []
    for path in sorted((root / GROUP_VARS).glob("[!.]*")):
        file = path.relative_to(root)
        if path.name == "all" and path.is_dir():
            continue
        if path.suffix != ".yml" or path.is_dir() or path.stem == "all":
            hint = f"a preset is one file, {GROUP_VARS}/<name>.yml; what holds for all is in {GROUP_VARS}/all/"
            problems.append(Problem(f"{file} is no preset's file", hint))
        elif path.stem not in hierarchy.parents:
            nearest = nearest_name(path.stem, list(hierarchy.names), cutoff=0.75)
            hint = f"add `{path.stem}: {{}}` to {HIERARCHY} below all: children:, or below the preset it builds on"
            problems.append(
                Problem(f"{file} belongs to no preset", hint + (f"; or did you mean `{nearest}`?" if nearest else ""))
            )
    return problems


def _collect_groups(path: Path, group: str, node: object, parents: dict[str, tuple[str, ...]]) -> None:
    body = cast(dict[object, object], {} if node is None else node)
    if not isinstance(node, dict | None) or set(body) - {"children"}:
        raise PresetError(
            f"{path}: group `{group}` may have `children` and nothing else",
            f"values belong in {GROUP_VARS}/{group}.yml, hosts in an inventory of their own",
        )
    children = body.get("children")
    if not isinstance(children, dict | None):
        raise PresetError(f"{path}: `children` of `{group}` is not a mapping", "write `name: {}` for each")
    for child, below in cast(dict[object, object], children or {}).items():
        if not isinstance(child, str) or not NAME.fullmatch(child) or child in ("all", "ungrouped"):
            raise PresetError(f"{path}: `{child}` is no preset's name", "letters, digits and `_`, a letter first")
        if group != "all":
            parents[child] = (*parents.get(child, ()), group)
        parents.setdefault(child, ())
        _collect_groups(path, child, below, parents)
