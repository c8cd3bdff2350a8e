"""Run on the controller: decide about NVIDIA's driver on what the module of the same name sees.

Steps: `look` (whose driver is there, and may it be what is wished for), `plan` (which packages), `load` (into the
kernel, or why that takes a reboot), `verify` (does every GPU answer, and if not, which driver did last). `initramfs`
is the module's alone.
"""

from __future__ import annotations

from dataclasses import asdict

from ansible.plugins.action import ActionBase

from infbox.errors import DriverError
from infbox.nvidia_driver import (
    LEAVE,
    Target,
    Wish,
    fault,
    judge,
    reboot_reason,
    recorded,
    repository,
    secure_boot,
    target_of,
)
from infbox.nvidia_packages import names_to_look_up, plan

REBOOT = "systemctl reboot"


class ActionModule(ActionBase):
    """`infbox_nvidia_driver: {step, wish, target, may_reboot, because}`."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset(("step", "wish", "target", "may_reboot", "because"))

    def run(self, tmp=None, task_vars=None):
        """One step's result; `failed`, with what to do, where it cannot go on."""
        super().run(tmp, task_vars)
        self._vars = task_vars
        steps = {"look": self._look, "plan": self._plan, "load": self._load, "verify": self._verify}
        step = self._task.args["step"]
        try:
            return steps[step]() if step in steps else self._ask(step)
        except DriverError as wrong:
            return {"failed": True, "msg": str(wrong)}

    def _ask(self, step, **arguments):
        result = self._execute_module(module_args={"step": step, **arguments}, task_vars=self._vars)
        if result.get("failed"):
            raise DriverError(result.get("msg") or result.get("module_stderr") or "the module ended without a word")
        return result

    def _facts(self, services=()):
        return self._ask("look", services=list(services))["facts"]

    @property
    def _wish(self):
        return Wish(**{name: str(value) for name, value in self._task.args["wish"].items()})

    def _look(self):
        course = judge(self._facts(), self._wish)
        for note in course.notes:
            self._display.warning(note)
        if course.action == LEAVE:
            self._display.display(f"    {course.said}")
        return {"changed": False, "msg": course.said, **asdict(course)}

    def _plan(self):
        facts, wish = self._facts(), self._wish
        names, url = names_to_look_up(facts, wish), repository(facts, wish)["url"]
        if self._task.check_mode and not any(source["uri"].rstrip("/") == url for source in facts["sources"]):
            message = f"would add {url}, and install of branch {wish.branch} what it has of {', '.join(names)}"
            return {"changed": True, "apply": False, "msg": message}
        chosen = plan(facts, wish, self._ask("index", names=names)["index"])
        for note in chosen.notes:
            self._display.warning(note)
        there = facts["installed"]
        differ = [name for name, version in chosen.target.packages.items() if there.get(name) != version]
        changed = bool(differ or chosen.remove or [name for name in chosen.headers if name not in there])
        self._ask("record", record=recorded(chosen.target, target_of(facts["record"].get("good"))))
        result = {"changed": changed, "apply": not (changed and self._task.check_mode), "target": told(chosen.target),
                  "install": chosen.install, "remove": list(chosen.remove)}  # fmt: skip
        verb = "would install" if self._task.check_mode else "to install:"
        return result | {"msg": f"{verb} {', '.join(chosen.install)}" if changed else f"driver {chosen.target.version}"}

    def _load(self):
        target = self._target
        facts = self._facts()
        reason, changed = reboot_reason(facts, target.version), False
        if not reason:
            loaded = self._ask("load", services=list(target.services))
            changed = loaded["changed"]
            reason = loaded["fault"] and f"it cannot be loaded now: {loaded['fault']}"
        # Ansible on the machine itself would end with it.
        may = self._task.args.get("may_reboot") and self._connection.transport != "local"
        if reason and not may:
            because = self._task.args.get("because")
            hint = (
                f"`{REBOOT}` when it suits, then run the same command again; with `nvidia_driver_allow_reboot: true` "
                "the playbook does that itself, from another machine"
            )
            raise DriverError(
                f"{because + '; ' if because else ''}driver {target.version} is installed, and takes effect with the "
                f"next boot: {reason}",
                "\n".join([*secure_boot(facts), hint]),
            )
        return {"changed": changed, "reboot": reason}

    def _verify(self):
        target = self._target
        wrong = self._ask("load", services=list(target.services))["fault"]
        facts = self._facts(target.services)
        wrong = wrong or fault(facts, target.version, target.services)
        good = target_of(facts["record"].get("good"))
        if not wrong:
            self._ask("record", record=recorded(target, target))
            return {"changed": False, "fault": "", "msg": f"every GPU answers with driver {target.version}"}
        if not good or good.version == target.version:
            hint = "see `dmesg | grep -i -e nvrm -e nvidia`, `dkms status` and `mokutil --sb-state`"
            return {"changed": False, "fault": wrong,
                    "msg": f"driver {target.version} does not work: {wrong}\n\nhint: {hint}"}  # fmt: skip
        self._ask("record", record=recorded(good, good))
        message = f"driver {target.version} does not work: {wrong}; {good.version}, which worked, is back"
        hint = f"leave `nvidia_driver_version` at '{good.version}', or try another"
        return {"changed": False, "fault": wrong, "because": message, "msg": f"{message}\n\nhint: {hint}",
                "back": told(good), "install": [f"{name}={version}" for name, version in good.packages.items()],
                "remove": sorted(set(target.packages) - set(good.packages))}  # fmt: skip

    @property
    def _target(self):
        given = self._task.args["target"]
        return Target(**{name: given[name] for name in ("version", "packages", "services")})


def told(target):
    """A target for the playbook, with the text that holds it."""
    return {**asdict(target), "pin": target.pin}
