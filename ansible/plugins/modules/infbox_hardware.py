"""Run on the box: what GPUs and how much RAM it has; the action of the same name compares that with the preset.

Reads PCI and /proc, so that it can say so before a driver is there, and asks the driver where it is; changes nothing.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.infbox_gpus import machine_facts  # pyright: ignore

DOCUMENTATION = """
module: infbox_hardware
short_description: Compare the machine with the one that the preset is made for
options: {}
"""


def main() -> None:
    """The facts."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(changed=False, facts=machine_facts())


if __name__ == "__main__":
    main()
