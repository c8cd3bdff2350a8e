"""Run on the controller: the module of the same name, and whether the machine is one for the host's preset.

The planner is here, so what the machine has is judged here; the roles' defaults stand below the host's variables.
"""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from infbox.errors import InfboxError
from infbox.hardware import describe, judge
from infbox.planner import role_defaults
from infbox.preset import load_hierarchy
from infbox.variables import load_variables, problems_error

CHECKOUT = Path(__file__).resolve().parents[3]


class ActionModule(ActionBase):
    """`infbox_hardware: {}`; fails with all that is less than the preset needs."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset()

    def run(self, tmp=None, task_vars=None):
        """Return `changed: false`, the machine in `msg`, and `failed` where it is not one for the preset."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        result = self._execute_module(task_vars=task_vars)
        if result.get("failed"):
            return result
        facts = result.pop("facts")
        try:
            judgement = judge(CHECKOUT, self._preset(task_vars), self._values(task_vars), facts)
        except InfboxError as fault:
            return result | {"failed": True, "msg": str(fault)}
        if judgement.problems:
            again = "the same command again"
            return result | {"failed": True, "msg": str(problems_error(list(judgement.problems), again))}
        for note in judgement.notes:
            self._display.warning(note)
        return result | {"msg": describe(facts), "gpus": facts["gpus"], "nvswitches": facts["nvswitches"]}

    def _preset(self, task_vars):
        hierarchy = load_hierarchy(CHECKOUT)
        of = [name for name in hierarchy.names if name in task_vars.get("group_names", ())]
        return max(of, key=hierarchy.depth, default="")

    def _values(self, task_vars):
        values = role_defaults(CHECKOUT)
        for name in load_variables(CHECKOUT).by_name:
            if name in task_vars:
                try:
                    values[name] = self._templar.template(task_vars[name])
                except AnsibleError:
                    continue  # it needs what an earlier role sets, and the planner does without
        return values
