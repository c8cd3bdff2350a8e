"""Run on the box: make a Python environment hold exactly what a lock file and a list of packages say.

What was installed is written into the environment last, so an installation that was killed is taken up again, and a
finished one costs the reading of one file. It is made with the machine's own Python, or with the one that module
infbox_python brought; uv itself runs on any.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.infbox_interpreter import interpreter, version_of  # pyright: ignore

DOCUMENTATION = """
module: infbox_environment
short_description: Make a Python environment from a lock file
options:
  path:
    type: path
    required: true
    description: The environment's folder.
  requirements:
    type: path
    required: true
    description: A lock file with hashes, on the box.
  packages:
    type: list
    elements: str
    default: []
    description: Packages besides the lock file's, as `name==version` or as the path of a wheel or project on the box.
  index_url:
    type: str
    default: ""
    description: An index with packages that the usual one lacks; asked for `packages` alone.
  uv:
    type: path
    description: The installer; without it, pip makes the environment (that is how uv itself comes).
  config:
    type: path
    required: true
    description: uv's settings file.
"""
RECORD = "infbox-installed.json"


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files; a missing one is the empty string."""
    if path.is_dir():
        return ",".join(f"{file.name}:{digest(file)}" for file in sorted(path.iterdir()) if file.is_file())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def main() -> None:
    """Compare, and install what differs."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "requirements": {"type": "path", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str", "default": ""},
            "uv": {"type": "path"},
            "config": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    path, uv = Path(module.params["path"]), module.params["uv"]
    requirements, packages = Path(module.params["requirements"]), module.params["packages"]
    made_with = interpreter() if uv else sys.executable
    wanted = {
        "python": version_of(made_with),
        "requirements": digest(requirements),
        "packages": {name: digest(Path(name)) if name.startswith("/") else "" for name in packages},
    }
    record = path / RECORD
    try:
        installed = json.loads(record.read_text())
    except (OSError, ValueError):
        installed = {}
    if installed == wanted or module.check_mode:
        module.exit_json(changed=installed != wanted)

    os.umask(0o022)  # services use it as users of their own
    if installed.get("python") != wanted["python"]:
        shutil.rmtree(path, ignore_errors=True)
    record.unlink(missing_ok=True)
    python = str(path / "bin" / "python")
    if uv:
        environment = {"UV_CONFIG_FILE": module.params["config"], "UV_NO_PROGRESS": "1"}
        make = [uv, "venv", "--allow-existing", "--python", made_with, str(path)]
        install = [uv, "pip", "install", "--python", python, "--no-deps"]
        steps = [make, [*install, "--require-hashes", "--requirements", str(requirements)]]
        index = ["--index", module.params["index_url"]] if module.params["index_url"] else []
        if packages:
            steps.append([*install, "--no-build-isolation", "--reinstall", *index, *packages])
    else:
        environment = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
        make = [made_with, "-m", "venv", str(path)]
        steps = [make, [python, "-m", "pip", "install", "--require-hashes", "--requirement", str(requirements)]]
    for step in steps:
        code, out, error = module.run_command(step, environ_update=environment)
        if code:
            module.fail_json(
                msg=f"`{' '.join(step[:4])} …` failed with status {code}:\n{(error or out).strip()[-3000:]}\n\n"
                "hint: if the package index is out of reach, name a mirror with `infbox_package_index_url`, or a "
                "folder of wheels with `infbox_package_find_links`; if the disk is full, make room. Then run it again."
            )
    record.write_text(json.dumps(wanted, indent=1))
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
