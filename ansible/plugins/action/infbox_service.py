"""Run on the controller: start a unit through the module of the same name, show what it says meanwhile, and when it
does not come up, fail with its journal."""

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

POLL_SECONDS = 1.0
PROGRESS_SECONDS = 10.0


class ActionModule(ActionBase):
    """`infbox_service: {name, files, timeout_seconds}`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Bring the unit up to date, wait until it works, or say why it does not."""
        super().run(tmp, task_vars)
        begun = self._step("begin", task_vars)
        if begun.get("failed") or self._task.check_mode or "state" not in begun:
            return begun
        name, timeout = self._task.args["name"], int(self._task.args.get("timeout_seconds", 90))
        state, last, shown = begun["state"], "", time.monotonic()
        end = time.monotonic() + timeout
        while not self._up(state):
            if self._down(state) or time.monotonic() > end:
                why = f"did not come up within {timeout} s" if not self._down(state) else "failed to start"
                return self._failure(name, why, task_vars)
            time.sleep(POLL_SECONDS)
            polled = self._step("poll", task_vars)
            if polled.get("failed"):
                return polled
            state = polled["state"]
            if polled["last"] != last and time.monotonic() - shown > PROGRESS_SECONDS:
                last, shown = polled["last"], time.monotonic()
                Display().display(f"    {name}: {last[:160]}")
        return {"changed": begun["changed"], "stale": begun["stale"]}

    def _step(self, step: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        arguments = {**self._task.args, "step": step}
        return self._execute_module(module_name="infbox_service", module_args=arguments, task_vars=task_vars)

    @staticmethod
    def _up(state: dict[str, str]) -> bool:
        return state["ActiveState"] == "active" and state["Job"] in ("", "0")

    @staticmethod
    def _down(state: dict[str, str]) -> bool:
        return state["ActiveState"] == "failed" or state["SubState"] == "auto-restart"

    def _failure(self, name: str, why: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        journal = self._step("journal", task_vars).get("journal", "")
        return {
            "failed": True,
            "msg": f"service {name} {why}; the end of its journal:\n\n{journal.strip()}\n\n"
            f"hint: the cause stands above; the whole journal: `journalctl -u infbox-{name}`. "
            "After the mend run the playbook again.",
        }
