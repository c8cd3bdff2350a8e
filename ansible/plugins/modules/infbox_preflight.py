"""Run on the box before anything is changed: all that would stop the playbook half way, in one message.

Reads, and changes nothing. A box that is converged passes: its own Caddy holds the ports, its environments are there.
What a host cannot say because its user may not become root, the action plugin of the same name says.
"""

from __future__ import annotations  # this alone has to run on a Python that is too old, to say so

import os
import re
import shutil
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: infbox_preflight
short_description: Check that a machine can become a box
options:
  ports:
    type: dict
    default: {}
    description: TCP ports that Caddy will listen on, by the variable that sets each.
  space:
    type: list
    elements: dict
    default: []
    description: Folders that will grow. Those on one filesystem share their files by hard links.
    suboptions:
      path:
        type: path
        required: true
        description: The folder; it need not be there.
      gigabytes:
        type: float
        required: true
        description: Its size when it is complete.
      until:
        type: path
        required: true
        description: A file that is there when it is complete.
  kv_cache_gib:
    type: int
    default: 0
    description: Memory for the KV cache of an engine on the processor; 0 if there is none.
"""
# What Ansible's modules run on here. Environments need a newer one, which module infbox_python brings.
PYTHON = (3, 10)
OLDEST_SYSTEMS = "use Debian 12, Ubuntu 22.04 or newer"
OWN_UNIT = "infbox-caddy.service"
LISTEN = "0A"
# What the engine takes besides its KV cache, the smallest model's weights among it.
ENGINE_GIB = 2


def problem(message: str, hint: str) -> str:
    """One problem as the house words it."""
    return f"{message}\n\nhint: {hint}"


def system_problems() -> list[str]:
    """The machine is none that the roles know."""
    found = []
    lines = Path("/etc/os-release").read_text().splitlines() if Path("/etc/os-release").exists() else []
    release = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    kinds = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    name = release.get("PRETTY_NAME", "unknown")
    if not kinds & {"debian", "ubuntu"}:
        found.append(problem(f"the system is {name}, and the roles know Debian and Ubuntu", OLDEST_SYSTEMS))
    if not Path("/run/systemd/system").is_dir():
        first = Path("/proc/1/comm").read_text().strip()
        hint = "`make demo` makes a host with systemd on this machine"
        found.append(problem(f"the first process is `{first}`, not systemd, so no service can be run", hint))
    if sys.version_info < PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        says = f"{sys.executable} is Python {version}, and the roles need 3.10 or newer"
        found.append(problem(says, OLDEST_SYSTEMS))
    return found


def listeners() -> dict[int, str]:
    """The TCP ports that something listens on, each with the inode of its socket."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            words = line.split()
            if words[3] == LISTEN:
                found[int(words[1].rpartition(":")[2], 16)] = words[9]
    return found


def holders(inodes: set[str]) -> dict[str, int]:
    """For each socket's inode, a process that holds it. The first process comes last: it holds others' sockets."""
    found = {}
    for folder in sorted(Path("/proc").glob("[0-9]*/fd"), key=lambda path: int(path.parts[2]), reverse=True):
        try:
            for file in folder.iterdir():
                link = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file))
                if link and link[1] in inodes:
                    found.setdefault(link[1], int(folder.parts[2]))
        except OSError:
            continue  # it ended meanwhile
    return found


def unit_of(pid: int) -> str:
    """The service that a process belongs to, or an empty string."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    names = re.findall(r"/([^/\n]+\.service)(?:/|$)", groups, re.MULTILINE)
    return names[0] if names else ""


def port_problems(ports: dict[str, int]) -> list[str]:
    """A port is taken by another program."""
    taken = {port: inode for port, inode in listeners().items() if port in ports.values()}
    pids = holders(set(taken.values())) if taken else {}
    found = []
    for variable, port in ports.items():
        pid = pids.get(taken.get(port, ""), 0)
        unit = unit_of(pid)
        if port not in taken or unit == OWN_UNIT:
            continue
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            name = ""
        who = f"`{name}` (process {pid}{', ' + unit if unit else ''})" if name else "a program that cannot be seen here"
        stop = f"systemctl disable --now {unit.removesuffix('.service')}" if unit else f"kill {pid}"
        if pid <= 1:
            stop = f"systemctl list-sockets; ss -ltnp sport = :{port}"
        hint = f"stop it (`{stop}`), or set `{variable}` to another port"
        found.append(problem(f"`{variable}` is {port}, and {who} listens there already", hint))
    return found


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return path if path.exists() else existing(path.parent)


def held_bytes(paths: list[Path]) -> int:
    """What the folders take on the disk already; a file that is in several of them by hard links counts once."""
    files = {}
    for path in paths:
        for folder, _, names in os.walk(path):
            for name in names:
                try:
                    status = os.lstat(os.path.join(folder, name))
                except OSError:
                    continue
                files[status.st_ino] = status.st_blocks * 512
    return sum(files.values())


def space_problems(space: list[dict]) -> list[str]:
    """A disk has no room for what is still missing."""
    disks: dict[int, list[dict]] = {}
    for each in space:
        if not Path(each["until"]).exists():
            disks.setdefault(existing(Path(each["path"])).stat().st_dev, []).append(each)
    found = []
    for wanted in disks.values():
        needed = max(each["gigabytes"] for each in wanted) * 1e9
        paths = [Path(each["path"]) for each in wanted]
        free = shutil.disk_usage(existing(paths[0])).free
        if free < needed:
            needed -= held_bytes(paths)
        if free < needed:
            where = " and ".join(map(str, paths))
            says = f"{where} needs {needed / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB free"
            found.append(problem(says, f"make room (`df -h {existing(paths[0])}`), or mount a larger disk there"))
    return found


def memory_problems(kv_cache_gib: int) -> list[str]:
    """Memory and swap together are less than the least that the engine takes."""
    if not kv_cache_gib:
        return []
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
    there = (int(sizes["MemTotal"]) + int(sizes.get("SwapTotal", 0))) / 2**20
    needed = kv_cache_gib + ENGINE_GIB
    if there > needed - 0.3:  # the kernel keeps some of what a machine is sold with
        return []
    says = (
        f"`vllm_cpu_kvcache_space_gib` is {kv_cache_gib}, which with the engine itself needs {needed} GiB of memory, "
    )
    return [problem(f"{says}and the machine has {there:.1f} GiB", "set it lower, or use a larger machine")]


def main() -> None:
    """Collect every problem, and fail if there is one."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "dict", "default": {}},
            "space": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "gigabytes": {"type": "float", "required": True},
                    "until": {"type": "path", "required": True},
                },
            },
            "kv_cache_gib": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    if os.geteuid() != 0:
        hint = "log in as root, or as a user who may use sudo (-e ansible_user=NAME, --ask-become-pass)"
        module.fail_json(msg=problem(f"the playbook runs as user id {os.geteuid()} and needs root", hint))
    ports = {variable: int(port) for variable, port in module.params["ports"].items()}
    problems = [
        *system_problems(),
        *port_problems(ports),
        *space_problems(module.params["space"]),
        *memory_problems(module.params["kv_cache_gib"]),
    ]
    if len(problems) == 1:
        module.fail_json(msg=problems[0])
    if problems:
        numbered = "\n\n".join(f"{number}. {text}" for number, text in enumerate(problems, 1))
        module.fail_json(msg=f"{len(problems)} problems; nothing was changed:\n\n{numbered}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
