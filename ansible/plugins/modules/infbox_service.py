"""Run on the box: bring one infbox unit up to date, in steps that the action plugin of the same name takes.

A unit is restarted when a file it was started with is newer than its start. Handlers are not used for that: a run
that is killed between a changed file and its handler would leave the old service running for good.

"Newer" errs towards a restart. A file's time is its last change of any kind (ctime), since packages and `cp -p` keep
older dates; a unit's is the moment when it began to start, not when it was up. A clock that was set in between must
hide nothing: see `started_at`.
"""

import os
import time
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: infbox_service
short_description: Bring an infbox unit up to date and wait until it works
options:
  name:
    type: str
    required: true
    description: The service's name; its unit is infbox-<name>.service.
  files:
    type: list
    elements: path
    default: []
    description: Files besides the unit, its drop-ins and /etc/infbox/<name>.env that it is started with.
  timeout_seconds:
    type: int
    default: 90
    description: Seconds until the unit must be up.
  step:
    type: str
    choices: [begin, poll, journal]
    default: begin
    description: For the action plugin alone.
"""

PROPERTIES = ["LoadState", "ActiveState", "SubState", "Result", "Job", "NRestarts", "NeedDaemonReload", "UnitFileState",
              "InactiveExitTimestamp", "InactiveExitTimestampMonotonic", "DropInPaths"]  # fmt: skip
# The kernel gives files the time of its last tick, up to this much behind the clock.
TICK_SECONDS = 0.01


def show(module: AnsibleModule, unit: str) -> dict[str, str]:
    """The unit's properties."""
    out = module.run_command(
        ["systemctl", "show", unit, "--timestamp=us+utc", *(f"--property={name}" for name in PROPERTIES)], check_rc=True
    )[1]
    return dict(line.partition("=")[::2] for line in out.splitlines())


def started_at(state: dict[str, str]) -> float:
    """When the unit last began to start, in seconds since the epoch; 0 if it never did.

    By the clock of then, or by counting back from the clock of now, whichever is earlier: they differ where the clock
    was set meanwhile, and the earlier one may cost a restart too many, but never one too few.
    """
    if state["InactiveExitTimestamp"] in ("", "n/a"):  # the latter by systemd 249
        return 0.0
    written = datetime.strptime(state["InactiveExitTimestamp"], "%a %Y-%m-%d %H:%M:%S.%f UTC")
    age = time.clock_gettime(time.CLOCK_MONOTONIC) - int(state["InactiveExitTimestampMonotonic"]) / 1e6
    return min(written.replace(tzinfo=timezone.utc).timestamp(), time.time() - age) - TICK_SECONDS


def changed_at(path: str) -> float:
    """When a file last changed; one that is missing never did."""
    try:
        return Path(path).stat().st_ctime
    except OSError:
        return 0.0


def date_anew(path: str) -> None:
    """Bring a file from the future, where the clock once was, into the present: it would be newer than any start."""
    if changed_at(path) > time.time():
        os.utime(path)


def begin(module: AnsibleModule, unit: str) -> None:
    """Reload, enable, and start or restart without waiting, where each is needed."""
    name = module.params["name"]
    files = [f"/etc/systemd/system/{unit}", f"/etc/infbox/{name}.env", *module.params["files"]]
    state = show(module, unit)
    if module.check_mode and state["LoadState"] == "not-found":
        module.exit_json(changed=True)
    # The unit may have started by itself after its file changed, and still with what systemd had read before.
    outdated = state["NeedDaemonReload"] == "yes"
    if outdated and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        state = show(module, unit)
    files += state["DropInPaths"].split()
    started = started_at(state)
    stale = [path for path in files if changed_at(path) > started] or files[:1] * outdated
    running = state["ActiveState"] == "active"
    enabled = state["UnitFileState"] == "enabled"
    changed = not enabled or not running or bool(stale)
    if not module.check_mode and changed:
        if stale or not running:
            code, _, error = module.run_command(["systemd-analyze", "verify", f"/etc/systemd/system/{unit}"])
            if code:
                module.fail_json(msg=f"{unit} is not a valid unit: {error.strip()}")
        if not enabled:
            module.run_command(["systemctl", "enable", unit], check_rc=True)
        if not running or stale:
            for path in stale:
                date_anew(path)
            module.run_command(["systemctl", "reset-failed", unit])
            module.run_command(["systemctl", "restart", "--no-block", unit], check_rc=True)
            time.sleep(0.2)
    module.exit_json(changed=changed, stale=stale, state=show(module, unit))


def main() -> None:
    """One step."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "default": []},
            "timeout_seconds": {"type": "int", "default": 90},
            "step": {"type": "str", "choices": ["begin", "poll", "journal"], "default": "begin"},
        },
        supports_check_mode=True,
    )
    unit = f"infbox-{module.params['name']}.service"
    journal = ["journalctl", "--unit", unit, "--no-pager", "--output=cat"]
    if module.params["step"] == "begin":
        begin(module, unit)
    elif module.params["step"] == "poll":
        last = module.run_command([*journal, "--lines=1"])[1].strip()
        module.exit_json(changed=False, state=show(module, unit), last=last)
    else:
        module.exit_json(changed=False, journal=module.run_command([*journal, "--lines=40"])[1])


if __name__ == "__main__":
    main()
