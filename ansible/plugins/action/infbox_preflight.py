"""Run on the controller: the module of the same name, and a clear word when the user there cannot become root.

Without it, Ansible says `Missing sudo password`, or shows what a shell said of a `sudo` that is not there.
"""

from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """`infbox_preflight: {ports, space, kv_cache_gib}`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, or why it could not be run."""
        super().run(tmp, task_vars)
        try:
            result = self._execute_module(task_vars=task_vars)
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as fault:
            said = str(fault)
        else:
            said = result.get("module_stderr", "")
        if not said:
            return result
        host = self._templar.available_variables.get("inventory_hostname", "the host")
        user = self._play_context.remote_user or "the user"
        if "python" in said:
            message = f"{host} has no Python that Ansible can run: {said.strip()}"
            hint = "on the host, as root: apt-get install python3"
        else:
            message = f"`{user}` cannot become root on {host}: {said.strip()}"
            hint = (
                "log in as root, or as a user who may use sudo: -e ansible_user=NAME, with --ask-become-pass if needed"
            )
        return {"failed": True, "msg": f"{message}\n\nhint: {hint}"}
