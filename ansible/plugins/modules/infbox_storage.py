"""Run on the box: one step of `infbox storage`, which holds the decisions; here they get Ansible's manners.

Where the command is not there yet, a check run says that something would change, and looks no further.
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: infbox_storage
short_description: Look at, format, mount and grow the box's disks
options:
  step:
    type: str
    choices: [look, data, grow, mount]
    required: true
    description: What to do, as `infbox storage STEP` does.
  arguments:
    type: list
    elements: str
    default: []
    description: The command's arguments.
"""
PROGRAM = "/opt/infbox/venv/bin/infbox"
WRONG_USAGE = 2


def main() -> None:
    """Run the step, and pass on what it says."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["look", "data", "grow", "mount"], "required": True},
            "arguments": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    dry_run = ["--dry-run"] if module.check_mode else []
    command = [PROGRAM, "storage", module.params["step"], *dry_run, *module.params["arguments"]]
    code, out, error = (WRONG_USAGE, "", f"{PROGRAM} is missing")
    if Path(PROGRAM).exists():
        code, out, error = module.run_command(command)
    if code == WRONG_USAGE and module.check_mode:
        module.exit_json(changed=True, known=False)
    if code:
        module.fail_json(msg=(error or out).strip().removeprefix("error: "))
    found = json.loads(out)
    module.exit_json(changed=found.pop("changed"), known=True, found=found)


if __name__ == "__main__":
    main()
