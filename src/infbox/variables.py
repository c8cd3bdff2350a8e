"""Every variable of the project, as the roles' argument specs declare them: the only schema there is.

`roles/<role>/meta/argument_specs.yml` declares a variable once, with its type, choices and
description. `load_variables` reads them all; `Variables.check` says what is wrong with one name and value.
Who uses it: `infbox.preset` for preset files, `infbox.host` for a host's variables in an Ansible run.

Types are YAML's, strictly: the string "8192" is no int and true is no int, for roles do not cast.
Names beginning with `__` are internal to a role and nobody else's matter.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from infbox.errors import PresetError
from infbox.strict_yaml import read_mapping

# What argument specs call a type → what Python has when YAML has it, and what a person calls it.
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "path": ((str,), "a path"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "list": ((list,), "a list"),
    "dict": ((dict,), "a mapping"),
    "raw": ((object,), "anything"),
}
JINJA = ("{{", "{%", "{#")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `where` is a file, with its line where it is known, or empty."""

    message: str
    hint: str = ""
    where: str = ""

    @property
    def sentence(self) -> str:
        """The message, with the place it speaks of in front."""
        return f"{self.where}: {self.message}" if self.where else self.message


def problems_error(problems: list[Problem], again: str) -> PresetError:
    """One error that holds every problem. `again` says what shows whether all are mended."""
    if len(problems) == 1:
        return PresetError(problems[0].sentence, problems[0].hint)
    lines = [f"{len(problems)} problems:"]
    for problem in problems:
        lines.append(f"- {problem.sentence}" + (f"\n  {problem.hint}" if problem.hint else ""))
    return PresetError("\n".join(lines), f"mend these, then run {again}")


@dataclass(frozen=True)
class Variable:
    """One declared variable, or one option inside a variable of type dict."""

    name: str
    role: str
    type: str
    description: str
    required: bool = False
    secret: bool = False
    elements: str | None = None
    choices: tuple[Any, ...] = ()
    options: Mapping[str, "Variable"] = field(default_factory=dict[str, "Variable"])

    def check(self, value: object, where: str = "", name: str = "") -> Iterator[Problem]:
        """Yield what is wrong with `value`; `name` is what to call it when it stands inside another."""
        name = name or self.name
        if fault := _type_fault(self.type, value):
            yield Problem(f"`{name}` is {self._show(value)}, but must be {TYPES[self.type][1]}", fault, where)
            return
        items = cast(list[object], value) if self.type == "list" else [value]
        if self.choices:
            for item in items:
                if not any(_same(item, choice) for choice in self.choices):
                    yield self._not_a_choice(item, name, where)
        if self.type == "list":
            for index, item in enumerate(items):
                yield from self._check_element(item, f"{name}[{index}]", where)
        elif self.options:
            yield from self._check_options(value, name, where)

    def _check_element(self, item: object, name: str, where: str) -> Iterator[Problem]:
        if self.elements and (fault := _type_fault(self.elements, item)):
            yield Problem(f"`{name}` is {self._show(item)}, but must be {TYPES[self.elements][1]}", fault, where)
        elif self.options and isinstance(item, dict):
            yield from self._check_options(cast(object, item), name, where)

    def _check_options(self, value: object, name: str, where: str) -> Iterator[Problem]:
        given = cast(dict[object, object], value)
        for key, inner in given.items():
            option = self.options.get(str(key))
            if option is None:
                nearest = nearest_name(str(key), self.options, cutoff=0.6)
                hint = f"did you mean `{nearest}`?" if nearest else f"it has {_listed(self.options)}"
                yield Problem(f"`{name}` has no option `{key}`", hint, where)
            else:
                yield from option.check(inner, where, f"{name}.{key}")
        for key, option in self.options.items():
            if option.required and key not in given:
                yield Problem(f"`{name}` lacks its option `{key}`", f"add it: {option.description}", where)

    def _not_a_choice(self, item: object, name: str, where: str) -> Problem:
        nearest = nearest_name(str(item), [str(choice) for choice in self.choices], cutoff=0.6)
        hint = f"it is one of {', '.join(_shown(choice) for choice in self.choices)}"
        if nearest:
            hint += f"; did you mean {nearest}?"
        return Problem(f"`{name}` cannot be {self._show(item)}", hint, where)

    def _show(self, value: object) -> str:
        kind = _type_name(value)
        return kind if self.secret or value is None else f"{_shown(value)} ({kind})"


@dataclass(frozen=True)
class Variables:
    """All declared variables by name, and where they are declared."""

    root: Path
    by_name: Mapping[str, Variable]

    @property
    def roles(self) -> set[str]:
        """The roles that declare anything."""
        return {variable.role for variable in self.by_name.values()}

    def role_of(self, name: str) -> str | None:
        """The role whose prefix a name carries, longest first: `systemd_service_user` → `systemd_service`."""
        carried = [role for role in self.roles if name.startswith(f"{role}_")]
        return max(carried, key=len, default=None)

    def check(self, name: str, value: object, where: str = "") -> list[Problem]:
        """What is wrong with one name and its value, Jinja resolved; an empty list if nothing is."""
        variable = self.by_name.get(name)
        return [self.unknown(name, where)] if variable is None else list(variable.check(value, where))

    def unknown(self, name: str, where: str = "") -> Problem:
        """The problem that no role declares `name`, with the nearest name that one does."""
        role = self.role_of(name)
        if nearest := self.nearest(name):
            hint = f"did you mean `{nearest}`?"
        else:
            hint = f"what is declared stands in roles/{role or '*'}/meta/argument_specs.yml"
        return Problem(f"no role declares `{name}`", hint, where)

    def nearest(self, name: str) -> str | None:
        """The declared name most like `name`, if any is like it at all."""
        role = self.role_of(name)
        if role is None:
            return nearest_name(name, self.by_name, cutoff=0.8)
        # The prefix is right, and would make all of the role's names alike: compare what follows it.
        rests = [known[len(role) :] for known, variable in self.by_name.items() if variable.role == role]
        nearest = nearest_name(name[len(role) :], rests, cutoff=0.7)
        return f"{role}{nearest}" if nearest else nearest_name(name, self.by_name, cutoff=0.85)

    def looks_misspelled(self, name: str) -> bool:
        """Whether an undeclared name was surely meant for a role: by its prefix, or by a slip of the finger."""
        if name in self.by_name or name.startswith("__"):
            return False
        return self.role_of(name) is not None or nearest_name(name, self.by_name, cutoff=0.9) is not None


def nearest_name(name: str, known: "Mapping[str, object] | list[str]", cutoff: float) -> str | None:
    """The one of `known` that is most like `name` (difflib's ratio, 0 to 1, at least `cutoff`)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def jinja_in(value: object) -> str | None:
    """The first string with Jinja in a value, keys and nested ones included."""
    if isinstance(value, str):
        return value if any(mark in value for mark in JINJA) else None
    if isinstance(value, dict):
        pairs = cast(dict[object, object], value)
        return next((found for part in [*pairs, *pairs.values()] if (found := jinja_in(part)) is not None), None)
    if isinstance(value, list):
        return next((found for part in cast(list[object], value) if (found := jinja_in(part)) is not None), None)
    return None


def load_variables(root: Path) -> Variables:
    """Read every role's argument spec below `root`, the folder that holds `roles/`.

    Raises:
        PresetError: a spec cannot be read, has a type this project does not know, or declares another's variable.
    """
    by_name: dict[str, Variable] = {}
    for path in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        role = path.parent.parent.name
        try:
            entries = cast(dict[str, dict[str, Any]], read_mapping(path, aliases=True).values["argument_specs"])
            declared = _variables(role, entries)
        except (KeyError, TypeError, AttributeError, ValueError) as fault:
            raise PresetError(
                f"{path} declares no variables as `argument_specs: main: options:` ({fault})",
                "compare it with another role's",
            ) from fault
        for name, variable in declared.items():
            if name in by_name:
                raise PresetError(
                    f"`{name}` is declared by role {role} and by role {by_name[name].role}",
                    "a variable has one role; the other takes it through inventories/group_vars/all/wiring.yml",
                )
            by_name[name] = variable
    if not by_name:
        raise PresetError(f"no role below {root / 'roles'} declares a variable", "run this in a checkout of infbox")
    return Variables(root=root, by_name=by_name)


def _variables(role: str, entries: dict[str, dict[str, Any]]) -> dict[str, Variable]:
    """A role's variables: those of its entry `main`, and what its other entries have besides."""
    declared: dict[str, Variable] = {}
    for entry in ["main", *(name for name in entries if name != "main")]:
        for name, option in cast(dict[str, dict[str, Any]], entries[entry].get("options") or {}).items():
            variable = _variable(name, role, option)
            declared.setdefault(name, variable if entry == "main" else replace(variable, required=False))
    return declared


def _variable(name: str, role: str, option: dict[str, Any]) -> Variable:
    kinds = [option.get("type", "str"), option.get("elements") or "raw"]
    if unknown := [kind for kind in kinds if kind not in TYPES]:
        raise ValueError(f"`{name}` has the type {unknown[0]}, and there are {_listed(TYPES)}")
    description = option.get("description") or ""
    inner: dict[str, Any] = option.get("options") or {}
    return Variable(
        name=name,
        role=role,
        type=kinds[0],
        description=" ".join(cast(list[str], description)) if isinstance(description, list) else str(description),
        required=bool(option.get("required")),
        secret=bool(option.get("no_log")),
        elements=option.get("elements"),
        choices=tuple(option.get("choices") or ()),
        options={key: _variable(key, role, value) for key, value in inner.items()},
    )


def _type_fault(type_: str, value: object) -> str:
    """How to mend a value that is not of a spec's type; empty if it is."""
    if value is None:
        return "give it a value, or remove the line"
    allowed, noun = TYPES[type_]
    if isinstance(value, allowed) and not (isinstance(value, bool) and type_ in ("int", "float")):
        return ""
    if type_ in ("str", "path"):
        return "put the value in quotes"
    if isinstance(value, str) and type_ in ("int", "float", "bool"):
        return "write it without quotes"
    return f"write {noun}"


def _type_name(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a boolean"
    nouns: list[tuple[type, str]] = [
        (str, "a string"), (int, "an integer"), (float, "a number"), (list, "a list"), (dict, "a mapping")
    ]  # fmt: skip
    return next((noun for kind, noun in nouns if isinstance(value, kind)), f"a {type(value).__name__}")


def _same(left: object, right: object) -> bool:
    """Equal as YAML sees it: 1 is not true, though Python says so."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
