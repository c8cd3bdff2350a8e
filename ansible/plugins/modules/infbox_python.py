"""Run on the box: bring a Python for its environments, where the machine's own is too old for infbox.

uv fetches a build of python-build-standalone and checks it against the checksum that it carries; the system's own
Python stays as it is. Module infbox_environment takes what is linked here.
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.infbox_interpreter import BROUGHT, machine_suffices, version_of  # pyright: ignore

DOCUMENTATION = """
module: infbox_python
short_description: Bring a Python where the machine's own is too old
options:
  version:
    type: str
    required: true
    description: The Python to bring, in full, as uv knows it.
  uv:
    type: path
    required: true
    description: The installer.
  config:
    type: path
    required: true
    description: uv's settings file.
"""


def main() -> None:
    """Look, and bring one if the one that is linked is another."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "uv": {"type": "path", "required": True},
            "config": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    uv, version, link = module.params["uv"], module.params["version"], Path(BROUGHT)
    if machine_suffices() or version_of(BROUGHT) == version:
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)

    os.umask(0o022)  # services run it as users of their own
    environment = {"UV_CONFIG_FILE": module.params["config"], "UV_NO_PROGRESS": "1"}
    environment["UV_PYTHON_INSTALL_DIR"] = str(link.parent.parent)
    code, out, error = module.run_command([uv, "python", "install", "--no-bin", version], environ_update=environment)
    if code:
        module.fail_json(
            msg=f"the machine's own Python is too old, and Python {version} could not be fetched:\n"
            f"{(error or out).strip()[-3000:]}\n\n"
            "hint: name a mirror of python-build-standalone's releases with `infbox_python_install_mirror`, or install "
            "Python 3.11 or newer there and name it: ansible_python_interpreter=/usr/bin/python3.12"
        )
    find = [uv, "python", "find", "--managed-python", "--system", "--no-project", version]
    found = module.run_command(find, environ_update=environment, check_rc=True)[1].strip()
    link.parent.mkdir(exist_ok=True)
    new = link.with_name("python3.new")
    new.unlink(missing_ok=True)
    new.symlink_to(found)
    new.replace(link)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
