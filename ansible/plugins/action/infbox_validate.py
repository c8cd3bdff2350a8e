"""Action `infbox_validate`: one host's variables against what the roles declare, before anything is done to it.

Runs on the controller and needs no connection. It resolves the host's variables as a task would see them, roles'
defaults below them, and hands them to `infbox.host.check_host`; every problem comes back in one message.

Arguments: `root`, the checkout; without it, the one that this file lies in.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ansible.errors import AnsibleError, AnsibleUndefinedVariable, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase

try:
    from infbox.errors import InfboxError
    from infbox.host import MACHINE, check_host
    from infbox.variables import Problem, load_variables, problems_error
except ImportError as fault:
    IMPORT_FAULT = fault
else:
    IMPORT_FAULT = None

try:
    from ansible._internal._datatag._tags import Origin  # where a value was written; there is no public way to it
except ImportError:
    Origin = None

CHECKOUT = Path(__file__).resolve().parents[3]


class ActionModule(ActionBase):
    """Check that a host is in one preset and that its variables are declared and of their types."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    _VALID_ARGS = frozenset(("root",))

    def run(self, tmp=None, task_vars=None):
        """Return `changed: false`, or `failed` with every problem in `msg`."""
        result = super().run(tmp, task_vars)
        result["changed"] = False
        if IMPORT_FAULT is not None:
            return result | {"failed": True, "msg": import_message(IMPORT_FAULT)}
        task_vars = task_vars or {}
        root = Path(self._task.args.get("root") or CHECKOUT)
        host = str(task_vars["inventory_hostname"])
        try:
            problems = self._problems(load_variables(root), host, task_vars)
        except InfboxError as fault:
            return result | {"failed": True, "msg": str(fault)}
        if problems:
            return result | {"failed": True, "msg": str(problems_error(problems, "the same command again"))}
        return result | {"msg": f"{host} has what its roles need"}

    def _problems(self, variables, host, task_vars):
        if not task_vars.get("groups", {}).get("all"):
            raise InfboxError("the inventory has no hosts", "for this machine itself, add -i inventories/local.yml")
        defaults = self._defaults(variables.root)
        templar = self._templar.copy_with_new_env(available_variables={**defaults, **task_vars})
        values, unresolved, origins, problems = {}, set(), {}, []
        for name, value in task_vars.items():
            origins[name] = origin_of(name, value, variables.root)
            if name not in variables.by_name and name not in MACHINE:
                values[name] = None  # its name alone is of interest
                continue
            try:
                values[name] = plain(templar.template(value))
            except (AnsibleUndefinedVariable, AnsibleValueOmittedError):
                unresolved.add(name)  # it needs a fact, or what an earlier role sets
            except AnsibleError as fault:
                unresolved.add(name)
                problems.append(Problem(f"`{name}` cannot be resolved: {fault}", "mend its template", origins[name]))
        return problems + check_host(
            variables,
            host,
            set(task_vars.get("group_names", ())),
            values,
            unresolved=unresolved,
            defaulted=set(defaults),
            origins=origins,
        )

    def _defaults(self, root):
        defaults = {}
        for path in sorted(root.glob("roles/*/defaults/main.yml")):
            defaults |= self._loader.load_from_file(str(path), trusted_as_template=True) or {}
        return defaults


def import_message(fault):
    """What to do when this Ansible runs in an environment without the package."""
    return (
        f"this ansible-playbook runs in {sys.prefix}, where the package `infbox` is not installed ({fault})\n\n"
        "hint: run `make setup`, then use `.venv/bin/ansible-playbook`"
    )


def plain(value):
    """A resolved value without Ansible's own types: a vaulted string as its text."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str(value) if type(value).__name__ == "EncryptedString" else value


def origin_of(name, value, root):
    """The file and line where a variable was set, or the option that set it; empty if it cannot be known."""
    origin = Origin and (Origin.get_tag(name) or Origin.get_tag(value))
    if not origin:
        return ""
    if not origin.path:
        return "-e" if "'-e'" in (origin.description or "") else str(origin.description)
    path = Path(origin.path)
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)
