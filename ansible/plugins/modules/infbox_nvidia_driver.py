"""Run on the box: see what there is of NVIDIA's driver, keep the record of it, and load it; in steps that the action
plugin of the same name takes, which decides."""

import contextlib
import json
import os
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.infbox_gpus import machine_facts  # pyright: ignore

DOCUMENTATION = """
module: infbox_nvidia_driver
short_description: Look at, choose, load and prove NVIDIA's driver
options:
  step:
    type: str
    choices: [look, index, record, initramfs, load]
    required: true
    description: For the action plugin, whose own steps are look, plan, initramfs, load and verify.
  names:
    type: list
    elements: str
    default: []
    description: Packages to look up, for index.
  record:
    type: dict
    default: {}
    description: What to remember, for record.
  services:
    type: list
    elements: str
    default: []
    description: Services to look at, and to start in load.
"""

RECORD = Path("/var/lib/infbox/nvidia-driver.json")
LOADED = Path("/sys/module/nvidia/version")
SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
NOUVEAU_OFF = Path("/etc/modprobe.d/infbox-nouveau.conf")
STEPS = ["look", "index", "record", "initramfs", "load"]
MODULES = ["nvidia", "nvidia-uvm"]
# What the first of them is called on disk: by NVIDIA's packages, and by Debian's own.
ON_DISK = ["nvidia", "nvidia-current"]


def text_of(path: Path) -> str:
    """A small file's text; empty where it is not."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def run(module: AnsibleModule, *command: str) -> tuple[int, str, str]:
    """A program's status, output and errors; also of one in /usr/sbin, which is not on every root's path."""
    program = module.get_bin_path(command[0])
    return module.run_command([program, *command[1:]]) if program else (127, "", f"there is no {command[0]}")


def said(module: AnsibleModule, *command: str) -> str:
    """What a program prints."""
    return run(module, *command)[1].strip()


def read_record() -> dict:
    """What the role did here; nothing, where it did nothing or cannot say."""
    try:
        return json.loads(RECORD.read_text())
    except (OSError, ValueError):
        return {}


def signed_by(text: str, uri: str) -> str:
    """What stands behind `Signed-By:` in an apt source of `uri`, in either format; empty if nothing does."""
    for stanza in re.split(r"\n\s*\n", text):
        if uri.rstrip("/") not in stanza:
            continue
        if found := re.search(r"^Signed-By:((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE | re.IGNORECASE):
            return found[1]
        if found := re.search(r"^deb\s+\[[^\]]*signed-by=([^\s\]]+)", stanza, re.MULTILINE):
            return f" {found[1]}"
    return ""


def apt_sources(module: AnsibleModule) -> list[dict]:
    """Where apt takes packages from."""
    form = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(SOURCESENTRY)"
    found = []
    for line in said(module, "apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        uri, release, codename, component, entry = line.split("|")
        key = signed_by(text_of(Path(entry.rpartition(":")[0])), uri)
        found.append({"uri": uri, "release": release, "codename": codename, "component": component, "signed_by": key})
    return found


def installed_packages(module: AnsibleModule) -> dict[str, str]:
    """The packages that matter here and are installed, with their versions."""
    out = said(module, "dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Package}|${Version}\n")
    rows = [line.split("|") for line in out.splitlines()]
    matters = re.compile(r"nvidia|^libcuda|^linux-(image|headers)-")
    return {name: version for state, name, version in rows if state.startswith("ii") and matters.search(name)}


def facts(module: AnsibleModule) -> dict:
    """What `infbox.nvidia_driver` decides on."""
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines() if line)
    kernel = os.uname().release
    variable = b""
    with contextlib.suppress(OSError):
        variable = SECURE_BOOT.read_bytes()
    return {
        "machine": machine_facts(),
        "os": {
            "id": release.get("ID", "").strip('"'),
            "version_id": release.get("VERSION_ID", "").strip('"'),
            "codename": release.get("VERSION_CODENAME", "").strip('"'),
        },
        "architecture": said(module, "dpkg", "--print-architecture"),
        "kernel": kernel,
        "headers": Path(f"/lib/modules/{kernel}/build").exists(),
        "loaded": text_of(LOADED),
        "on_disk": next(filter(None, (said(module, "modinfo", "--field", "version", name) for name in ON_DISK)), ""),
        "smi": module.get_bin_path("nvidia-smi") or "",
        "installed": installed_packages(module),
        "services": {name: said(module, "systemctl", "is-active", name) for name in module.params["services"]},
        "record": read_record(),
        "sources": apt_sources(module),
        "secure_boot": variable[-1:] == b"\x01",
    }


def index(module: AnsibleModule) -> dict[str, list]:
    """The versions of packages that apt knows, each with the address of its repository."""
    found: dict[str, list] = {name: [] for name in module.params["names"]}
    for line in said(module, "apt-cache", "madison", *module.params["names"]).splitlines():
        name, version, source = (part.strip() for part in line.split("|", 2))
        if source.endswith("Packages"):
            found.setdefault(name, []).append([version, source.split()[0]])
    return found


def record(module: AnsibleModule) -> bool:
    """Remember, and say whether that is new."""
    if read_record() == module.params["record"]:
        return False
    if not module.check_mode:
        RECORD.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = RECORD.with_suffix(".new")
        fresh.write_text(json.dumps(module.params["record"], indent=1) + "\n")
        fresh.chmod(0o644)
        fresh.replace(RECORD)
    return True


def initramfs(module: AnsibleModule) -> bool:
    """Make those anew that are older than the word that nouveau stays away: they may still load it."""
    try:
        older = Path(f"/boot/initrd.img-{os.uname().release}").stat().st_mtime < NOUVEAU_OFF.stat().st_mtime
    except OSError:
        return False  # there is none
    if older and not module.check_mode:
        code, out, error = run(module, "update-initramfs", "-u", "-k", "all")
        if code:
            module.fail_json(msg=f"update-initramfs ended with status {code}: {(error or out).strip()[-2000:]}")
    return older


def load(module: AnsibleModule) -> tuple[bool, str]:
    """Load the driver and start its services: whether that did anything, and why the driver cannot be loaded."""
    changed = False
    if not LOADED.exists():
        loads = ("modprobe", "--all", *MODULES)
        code, out, error = run(module, *loads)
        if code and not run(module, "dkms", "autoinstall", "-k", os.uname().release)[0]:
            # Packages that came before the headers of this kernel had built nothing for it.
            code, out, error = run(module, *loads)
        if code:
            return False, (error or out).strip()
        changed = True
    for name in module.params["services"]:
        if run(module, "systemctl", "is-active", "--quiet", name)[0]:
            run(module, "systemctl", "reset-failed", name)
            run(module, "systemctl", "start", name)
            changed = True
    return changed, ""


def main() -> None:
    """One step."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": STEPS, "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "dict", "default": {}},
            "services": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    step = module.params["step"]
    if step == "look":
        module.exit_json(changed=False, facts=facts(module))
    elif step == "index":
        module.exit_json(changed=False, index=index(module))
    elif step == "record":
        module.exit_json(changed=record(module))
    elif step == "initramfs":
        module.exit_json(changed=initramfs(module))
    elif module.check_mode:
        module.exit_json(changed=False, fault="")
    else:
        changed, fault = load(module)
        module.exit_json(changed=changed, fault=fault)


if __name__ == "__main__":
    main()
