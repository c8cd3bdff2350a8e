"""Run a service's program in the engine's image, as its unit would run it on the box itself.

The unit's process becomes podman, which stays in front of the program: the program's journal, signals, exit status,
memory limit and network are the unit's. Its sandbox is the container's, as strict as the unit's own: no capability, no
new privileges, nothing of the image written, processes of others unseen, and of the box only the folders named.
"""

import os
import pwd
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import infbox
from infbox.errors import ImageError
from infbox.image.store import Image

# Of the unit's environment, what speaks of the process on the box and not of the program.
OWN = ("PATH", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "SHELL", "USER", "LOGNAME",
       "PYTHONPATH", "IMAGE_REFERENCE", "IMAGE_ARCHIVE", "CREDENTIALS_DIRECTORY", "WATCHDOG_PID", "LANG")  # fmt: skip
# Where the image finds the package that the box has: connectors for kept KV and Cake, and the daemon.
PACKAGE_FOLDER = Path("/opt/infbox/package")
DEVICES = ("nvidiactl", "nvidia-uvm")
SPECIFICATIONS = (Path("/etc/cdi"), Path("/var/run/cdi"))
GPU = "nvidia.com/gpu"
POLL_SECONDS = 1.0
REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Program:
    """What is run. `read` and `write`: paths of the box that it finds at the same place; `shared_memory`: a folder that
    is its /dev/shm, instead of the box's; `groups`: what it is in besides its user's own."""

    name: str
    user: str
    command: tuple[str, ...]
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    shared_memory: Path | None = None
    groups: tuple[int, ...] = ()
    gpus: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def words(program: Program, image: Image, cgroups: list[str], umask: int) -> list[str]:
    """podman's command line.

    Raises:
        ImageError: there is no such user.
    """
    try:
        user = pwd.getpwnam(program.user)
    except KeyError:
        raise ImageError(f"there is no user {program.user}", "run role base") from None
    manager = [word for word in cgroups if word.startswith("--cgroup-manager")]
    said = ["podman", "--events-backend=file", *manager, "run"]
    said += ["--rm", "--replace", f"--name={program.name}", "--pull=never", "--log-driver=passthrough"]
    said += [word for word in cgroups if word not in manager]
    said += ["--sdnotify=ignore", "--network=host", "--ipc=host", "--pid=host", "--http-proxy=false"]
    said += ["--cap-drop=all", "--security-opt=no-new-privileges", "--security-opt=proc-opts=hidepid=2"]
    said += ["--read-only", f"--user={user.pw_uid}:{user.pw_gid}", f"--umask={umask:04o}"]
    # podman raises its own, so that `host` would not mean the unit's, and the runtime may be allowed no more.
    said += [f"--ulimit={name}={soft}:{hard}" for name, (soft, hard) in limits().items()]
    said += ["--pids-limit=-1", *(f"--group-add={group}" for group in program.groups), "--workdir=/"]
    said += [f"--env={name}" for name in sorted(program.environment) if name not in OWN]
    said += [f"--env=USER={program.user}", f"--env=LOGNAME={program.user}"]
    inner = image.environment.get("PYTHONPATH")
    said += [f"--env=PYTHONPATH={PACKAGE_FOLDER}{f':{inner}' if inner else ''}"]
    said += [f"--volume={Path(infbox.__file__).parent}:{PACKAGE_FOLDER / 'infbox'}:ro"]
    # One that is not there now cannot be mounted, and the program is told the same by its absence.
    seen = [path for path in program.read if path.exists()]
    said += [f"--volume={path}:{path}:ro" for path in seen]
    said += [f"--volume={source}:{place}:ro" for path in seen for place, source in linked(path).items()]
    said += [f"--volume={path}:{path}" for path in program.write if path.exists()]
    if program.shared_memory:
        said += [f"--volume={program.shared_memory}:/dev/shm"]
    if socket := program.environment.get("NOTIFY_SOCKET"):
        # Not by podman, which passes on that a program is up, and nothing after that: no watchdog.
        said += [f"--volume={socket}:{socket}", f"--env=NOTIFY_SOCKET={socket}"]
    if program.gpus:
        said += [f"--device={GPU}=all"]
    return [*said, f"--entrypoint={program.command[0]}", image.id, *program.command[1:]]


def limits() -> dict[str, tuple[int, int]]:
    """This process's, which are the unit's, soft and hard, as podman names them; -1 is none."""
    names = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "memlock": resource.RLIMIT_MEMLOCK}
    return {name: resource.getrlimit(limit) for name, limit in names.items()}


def linked(folder: Path) -> dict[Path, Path]:
    """Folders that the files of one link into, by where the links find them: a hub's cache has each file elsewhere."""
    found: dict[Path, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_symlink() and file.exists():
            place = Path(os.path.normpath(folder / file.readlink())).parent
            if place != folder:
                found[place] = file.resolve().parent
    return found


def cgroup_options(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[str]:
    """How the container stays within the unit's control group, whose limits are the unit's."""
    if (root / "cgroup.controllers").exists():
        return ["--cgroups=split"]
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            return ["--cgroup-manager=cgroupfs", "--cgroups=no-conmon", f"--cgroup-parent={path}"]
    raise ImageError("this machine's control groups are not systemd's", "a container needs a machine with systemd")


def missing_of_gpus(devices: Path = Path("/dev"), folders: tuple[Path, ...] = SPECIFICATIONS) -> list[str]:
    """What a container needs of the machine to use its GPUs, and is not there."""
    missing = [str(devices / name) for name in DEVICES if not (devices / name).exists()]
    if not any(path.name[6:].isdigit() for path in devices.glob("nvidia*")):
        missing.insert(0, str(devices / "nvidia0"))
    files = [file for folder in folders for file in sorted(folder.glob("*.*")) if file.suffix in (".yaml", ".json")]
    if not any(GPU in file.read_text(errors="replace") for file in files):
        missing.append(f"a description of {GPU} in {' or '.join(map(str, folders))}")
    return missing


def wait_for_gpus(
    seconds: float,
    look: Callable[[], list[str]] = missing_of_gpus,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait for the driver, which at boot may come after this unit.

    Raises:
        ImageError: it is not there within `seconds`; the processor is never taken instead.
    """
    begun = clock()
    told = begun - REPORT_SECONDS
    while missing := look():
        now = clock()
        if now - begun > seconds:
            message = f"the GPUs are not there after {now - begun:.0f} s: no {', no '.join(missing)}"
            raise ImageError(message, "`nvidia-smi` and `journalctl -u nvidia-cdi-refresh` say why")
        if now - told >= REPORT_SECONDS:
            told = now
            say(f"waiting for the GPUs: no {', no '.join(missing)}")
        sleep(POLL_SECONDS)


def become(program: Program, image: Image) -> None:
    """Run it, in place of this process."""
    umask = os.umask(0o077)
    os.umask(umask)
    command = words(program, image, cgroup_options(), umask)
    try:
        os.execvpe(command[0], command, {**os.environ})  # noqa: S606
    except OSError as fault:
        raise ImageError(f"podman cannot be run: {fault}", "run role container_toolkit") from fault
