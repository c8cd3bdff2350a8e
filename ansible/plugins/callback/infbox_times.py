"""At the end of a run, what each role took. A service's installation counts for the role that it belongs to."""

import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: infbox_times
type: aggregate
short_description: Print the seconds that each role took
description: [Every role of site.yml is tagged with its name, which tasks of roles that it uses inherit.]
"""


class CallbackModule(CallbackBase):
    """Adds up the time between one task's start and the next one's, by role."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "infbox_times"

    def __init__(self) -> None:
        super().__init__()
        self._seconds: dict[str, float] = {}
        self._current: tuple[str, float] | None = None

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Another task: the one before it has taken until now."""
        self._switch(next((tag for tag in task.tags if tag != "always"), "checks"))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Handlers count too."""
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end of the run."""
        self._switch(None)
        if self._seconds:
            self._display.banner("SECONDS BY ROLE")
            for name, seconds in self._seconds.items():
                self._display.display(f"{name:<12} {seconds:7.1f}")

    def _switch(self, name: str | None) -> None:
        now = time.monotonic()
        if self._current:
            last, since = self._current
            self._seconds[last] = self._seconds.get(last, 0.0) + now - since
        self._current = (name, now) if name else None
