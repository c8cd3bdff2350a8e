"""Run on the box: bring one infbox unit up to date, in steps that the action plugin of the same name takes.

A unit is restarted when a file it was started with is newer than its start. Handlers are not used for that: a run
that is killed between a changed file and its handler would leave the old service running for good.
"""

import time
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
              "ActiveEnterTimestamp", "DropInPaths", "FragmentPath", "StateChangeTimestamp"]  # fmt: skip


def show(module: AnsibleModule, unit: str) -> dict[str, str]:
    """The unit's properties; times are seconds since the epoch."""
    out = module.run_command(
        ["systemctl", "show", unit, "--timestamp=unix", *(f"--property={name}" for name in PROPERTIES)], check_rc=True
    )[1]
    return dict(line.partition("=")[::2] for line in out.splitlines())


def modified(path: str) -> float:
    """When the file was last written; a file that is missing was never written."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def begin(module: AnsibleModule, unit: str) -> None:
    """Reload, enable, and start or restart without waiting, where each is needed."""
    name = module.params["name"]
    files = [f"/etc/systemd/system/{unit}", f"/etc/infbox/{name}.env", *module.params["files"]]
    state = show(module, unit)
    if module.check_mode and state["LoadState"] == "not-found":
        module.exit_json(changed=True)
    if state["NeedDaemonReload"] == "yes" and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        state = show(module, unit)
    files += state["DropInPaths"].split()
    started = float(state["ActiveEnterTimestamp"].removeprefix("@") or 0)
    stale = [path for path in files if modified(path) >= started + 1]  # systemd tells whole seconds
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
