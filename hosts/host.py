#!/usr/bin/env python3
"""Real systemd hosts in podman containers: what `make demo` and molecule converge.

    hosts/host.py up NAME [--suite bookworm]   make and start a host; prints how to reach it as JSON,
                                               with --inventory writes it down for Ansible
    hosts/host.py down NAME [NAME ...]         remove hosts, their networks and keys
    hosts/host.py clean                        remove every host, image and download

The machine needs root and Debian or Ubuntu; missing packages are installed. Everything lives in
`$INFBOX_CACHE` (default ~/.cache/infbox), apart from the user's own podman. Hosts are not privileged:
`layer/host-init` says how a container becomes a machine. Only the standard library is needed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("INFBOX_CACHE") or Path.home() / ".cache" / "infbox")
STATE = CACHE / "hosts"
UV_CACHE = CACHE / "uv"
CA_FOLDER = Path("/usr/local/share/ca-certificates")
NEEDED = ["podman", "netavark", "aardvark-dns", "iptables", "mmdebstrap", "openssh-client", "ca-certificates"]
# What a server has after an ordinary installation, and no more: the roles bring the rest.
IN_HOST = (
    "apt,systemd,systemd-sysv,dbus,libpam-systemd,libnss-systemd,python3,python3-apt,openssh-server,sudo,"
    "iproute2,ca-certificates,procps,kmod,udev,gpg"
)
# Hosts of Ubuntu can be made on Debian, too. The file is the key that signs its archive,
# F6EC B376 2474 EDA9 D21B 7022 8719 20D1 991B C93C, as Debian's package ubuntu-archive-keyring has it.
UBUNTU_SUITES = ("jammy", "noble")
UBUNTU_ARCHIVE = "http://archive.ubuntu.com/ubuntu"
UBUNTU_KEY = HERE / "ubuntu-archive.asc"
HOST_OPTIONS = [
    "--systemd=always",
    "--cgroupns=private",
    "--cap-add=all",
    "--cap-drop=SYS_TIME",
    "--cap-drop=SYS_MODULE",
    "--cap-drop=SYS_RAWIO",
    "--security-opt=seccomp=unconfined",
    "--security-opt=unmask=ALL",
    "--device-cgroup-rule=c 5:1 rwm",
]


class HostError(Exception):
    """A host cannot be had; the text says what to do."""


def run(*command: str, capture: bool = False, check: bool = True, text_in: str | None = None) -> str:
    """Run a program; its output is returned, or with `capture=False` goes to stderr."""
    done = subprocess.run(
        command, text=True, input=text_in, stdout=subprocess.PIPE, stderr=None if not capture else subprocess.PIPE
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise HostError(f"`{' '.join(command[:6])} …` failed with status {done.returncode}\n{said}")
    return done.stdout.strip()


def podman(*arguments: str, check: bool = True, text_in: str | None = None) -> str:
    """Run podman on our own storage."""
    return run("podman", *arguments, capture=True, check=check, text_in=text_in)


def os_release() -> dict[str, str]:
    """/etc/os-release as a dictionary."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines) if value}


def require_root() -> None:
    """Stop whoever cannot make hosts."""
    if os.geteuid() != 0:
        raise HostError("making a host needs root.\n\nhint: run it with sudo, or as root")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Packages, images and hosts are made by one process, while others wait for it."""
    require_root()
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def granted(limit: int, wanted: int) -> int:
    """As much of what is wanted as this process may have."""
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)


def prepare_machine() -> None:
    """Install what hosts need and write podman's settings, kept apart from the user's."""
    if not shutil.which("apt-get"):
        raise HostError(
            "hosts are made from Debian or Ubuntu packages, and this machine has no apt-get.\n\n"
            "hint: provision a Debian or Ubuntu server with ./bootstrap.sh instead"
        )
    # crun refuses the hybrid cgroup hierarchy (v1 controllers with a v2 `unified` beside them).
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    needed = NEEDED if unified else [*NEEDED, "runc"]
    installed = subprocess.run(["dpkg", "-s", *needed], capture_output=True).returncode == 0
    if not installed:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *needed]):
            done = subprocess.run(["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL)
            if done.returncode:
                raise HostError(f"`apt-get {command[0]}` failed.\n\nhint: read its message above; try it by hand")
    STATE.mkdir(parents=True, exist_ok=True)
    UV_CACHE.mkdir(parents=True, exist_ok=True)
    # No more than this machine grants us; podman itself goes down to 32,768 processes.
    files = granted(resource.RLIMIT_NOFILE, 1048576)
    processes = granted(resource.RLIMIT_NPROC, 32768)
    engine = 'events_logger = "file"\n'
    if not unified:
        engine += 'runtime = "runc"\n'
    if Path("/proc/1/comm").read_text().strip() != "systemd":
        engine += 'cgroup_manager = "cgroupfs"\n'
    (STATE / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\npids_limit = 0\n'
        f'[engine]\n{engine}[network]\nnetwork_backend = "netavark"\n'
    )
    (STATE / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{STATE}/graph"\nrunroot = "{STATE}/run"\n'
    )
    os.environ.update(CONTAINERS_CONF=f"{STATE}/containers.conf", CONTAINERS_STORAGE_CONF=f"{STATE}/storage.conf")


def own_mirrors(release: dict[str, str]) -> dict[str, str]:
    """The archives that this machine itself uses, by pocket: the release's own is the empty string."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages",
                  capture=True)  # fmt: skip
    own = release.get("VERSION_CODENAME", "")
    found: dict[str, str] = {}
    for line in targets.splitlines():
        uri, name, component = line.split()
        if component == "main" and name in (own, f"{own}-updates", f"{own}-security"):
            found.setdefault(name.removeprefix(own), uri)
    if "" not in found:
        raise HostError(
            f"apt has no source for this machine's own release {own!r}.\n\nhint: run `apt-get update` first"
        )
    return found


def mirrors(suite: str, sources: Path) -> None:
    """Write an apt source for `suite`, from this machine's own mirrors where they have it."""
    release = os_release()
    ubuntu, foreign = suite in UBUNTU_SUITES, release.get("ID") != "ubuntu"
    archives = dict.fromkeys(("", "-updates", "-security"), UBUNTU_ARCHIVE)
    found = archives if ubuntu and foreign else own_mirrors(release)
    components = "main universe" if ubuntu or not foreign else "main"
    sources.write_text("".join(f"deb {uri} {suite}{pocket} {components}\n" for pocket, uri in found.items()))


def image(suite: str) -> str:
    """The name of the image of `suite`, made if it is not there yet; its tag is a hash of all that goes into it."""
    content = hashlib.sha256(f"{suite} {IN_HOST}".encode())
    authorities = sorted(CA_FOLDER.glob("*.crt"))
    for path in [*sorted((HERE / "layer").iterdir()), *authorities]:
        content.update(path.read_bytes())
    name = f"localhost/infbox-host:{suite}-{content.hexdigest()[:12]}"
    if subprocess.run(["podman", "image", "exists", name]).returncode == 0:
        return name
    print(f"making the root filesystem of {suite} (once, a minute or two)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        work = Path(folder)
        work.chmod(0o755)  # mmdebstrap drops to the user _apt in here
        mirrors(suite, work / "sources.list")
        run(
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={IN_HOST}",
            *([f"--keyring={UBUNTU_KEY}"] if suite in UBUNTU_SUITES else []),
            "--aptopt=Acquire::Languages none", "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--customize-hook=rm -f $1/etc/ssh/ssh_host_*; : >$1/etc/machine-id",
            "--customize-hook=mv $1/etc/apt/sources.list.d/0000*.list $1/etc/apt/sources.list",
            suite, str(work / "root.tar"), str(work / "sources.list"), capture=True,
        )  # fmt: skip
        podman("import", "--quiet", str(work / "root.tar"), f"{name}-root")
        shutil.copytree(HERE / "layer", work / "layer")
        (work / "layer" / "ca").mkdir()
        for path in authorities:
            shutil.copy(path, work / "layer" / "ca")
        podman("build", "--quiet", "--pull=never", f"--build-arg=BASE={name}-root", "--tag", name, str(work / "layer"))
    for other in podman("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if other.startswith(f"localhost/infbox-host:{suite}-") and not other.startswith(name):
            podman("rmi", other, check=False)  # one that a host still runs on stays
    return name


def local_package_folders() -> list[str]:
    """Folders that this machine's pip takes packages from (a mirror on disk): a host sees them at the same place."""
    pip = shutil.which("pip3") or shutil.which("pip")
    said = run(pip, "config", "list", capture=True, check=False) if pip else ""
    settings = [line.partition("=")[2].strip("'\"") for line in said.splitlines() if "find-links" in line]
    words = [word.removeprefix("file://") for setting in settings for word in setting.split()]
    return sorted({word for word in words if word.startswith("/") and Path(word).is_dir()})


def exists(name: str) -> bool:
    """Whether there is a host of this name, running or not."""
    return subprocess.run(["podman", "container", "exists", name]).returncode == 0


def create(name: str, suite: str, volumes: Sequence[str], devices: Sequence[str]) -> None:
    """Make host `name`: a network of its own, and a container that starts as a machine does."""
    tag = image(suite)
    if subprocess.run(["podman", "network", "exists", name]).returncode:
        podman("network", "create", name)
    given = [f"--volume={volume}" for volume in volumes] + [f"--device={path}" for path in devices]
    # /dev/shm as large as on a machine of its own; podman's 64 MB are too small for an engine.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    podman(
        "run", "--detach", f"--name={name}", f"--hostname={name}", f"--network={name}", *HOST_OPTIONS,
        f"--shm-size={memory // 2}b", f"--volume={UV_CACHE}:/var/cache/infbox/uv", *given, "--pull=never", tag,
    )  # fmt: skip


def up(name: str, suite: str, folder: Path, devices: Sequence[str] = (),
       volumes: Sequence[str] = ()) -> dict[str, object]:  # fmt: skip
    """Start host `name` (made if it is not there), wait until it takes SSH logins, and return how to reach it.

    A new one gets this machine's `devices`, and `volumes` as podman writes them.
    """
    require_root()
    shared = local_package_folders()
    with one_at_a_time():
        prepare_machine()
        if not exists(name):
            create(name, suite, [*(f"{path}:{path}:ro" for path in shared), *volumes], devices)
        elif not is_running(name):
            podman("start", name)
    key, known = folder / "id_ed25519", folder / "known_hosts"
    folder.mkdir(parents=True, exist_ok=True)
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key))
    wait_until_booted(name)
    podman("exec", "--interactive", name, "sh", "-c", "umask 077; mkdir -p /root/.ssh; cat >/root/.ssh/authorized_keys",
           text_in=key.with_suffix(".pub").read_text())  # fmt: skip
    address = podman("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
    wait_for_ssh(address, known)
    return {"name": name, "address": address, "user": "root", "port": 22, "identity_file": str(key),
            "known_hosts": str(known), "package_folders": shared}  # fmt: skip


def switch_on(name: str, address: str) -> None:
    """Start a host that has gone down, with the address that it had; a machine of its own does that by itself."""
    # Its address is free once podman has cleaned up after it, which on a busy machine comes later than its end.
    podman("container", "cleanup", name, check=False)
    podman("network", "disconnect", name, name)
    podman("network", "connect", f"--ip={address}", name, name)
    for last_try in (*[False] * 20, True):
        podman("start", name, check=last_try)
        if is_running(name):
            return
        podman("container", "cleanup", name, check=False)
        time.sleep(1)


def is_running(name: str) -> bool:
    """Whether a host is up, or coming up."""
    return podman("inspect", "--format", "{{.State.Running}}", name) == "true"


def ssh_command(facts: dict[str, object]) -> list[str]:
    """What logs into the host as root."""
    return ["ssh", "-i", str(facts["identity_file"]), "-o", f"UserKnownHostsFile={facts['known_hosts']}",
            "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", f"{facts['user']}@{facts['address']}"]  # fmt: skip


def package_variables(facts: dict[str, object]) -> dict[str, object]:
    """Role variables with which a host takes packages from where this machine's pip finds them on disk."""
    folders = facts["package_folders"]
    # torch's CPU build is among them where pip has it there, so its public index is not asked.
    return {"infbox_package_find_links": folders, "vllm_torch_index_url": ""} if folders else {}


def inventory_variables(facts: dict[str, object]) -> dict[str, object]:
    """A host's variables in an Ansible inventory."""
    return {
        "ansible_host": facts["address"],
        "ansible_user": facts["user"],
        "ansible_ssh_private_key_file": facts["identity_file"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={facts['known_hosts']} -o IdentitiesOnly=yes",
    } | package_variables(facts)


def write_inventory(path: Path, box: dict[str, object], group: str, **given: object) -> Path:
    """The inventory of one host, in its preset's group, with variables that are given; JSON is YAML."""
    variables = inventory_variables(box) | given
    path.write_text(json.dumps({group: {"hosts": {box["name"]: variables}}}, indent=2) + "\n")
    return path


def wait_until_booted(name: str, seconds: float = 60) -> None:
    """Until sshd runs. A box that boots is not `running` for systemd before its engine has produced a token."""
    state, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        state = podman("exec", name, "systemctl", "is-active", "ssh.service", check=False)
        if state == "active":
            return
        time.sleep(0.3)
    raise HostError(
        f"host {name} did not boot in {seconds:.0f} s; its SSH service is {state!r}.\n\n"
        f"hint: look at it with `CONTAINERS_STORAGE_CONF={STATE}/storage.conf podman logs {name}`"
    )


def wait_for_ssh(address: str, known_hosts: Path, seconds: float = 30) -> None:
    """Until sshd answers; its host key is written down, so that every later connection is checked."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        keys = run("ssh-keyscan", "-T", "2", "-t", "ed25519", address, capture=True, check=False)
        if keys:
            known_hosts.write_text(keys + "\n")
            return
        time.sleep(0.3)
    raise HostError(
        f"host at {address} does not answer on port 22 within {seconds:.0f} s.\n\nhint: is a firewall in between?"
    )


def down(name: str) -> None:
    """Remove a host and its network; nothing happens to one that is not there."""
    if not (STATE / "storage.conf").exists() or not shutil.which("podman"):
        return
    with one_at_a_time():
        prepare_machine()
    # An engine frees gigabytes when it is killed, and podman waits for that for a few seconds only: it is asked again.
    for last_try in (False, False, True):
        podman("rm", "--force", "--volumes", "--time=5", "--ignore", name, check=last_try)
        if not exists(name):
            break
    if subprocess.run(["podman", "network", "exists", name]).returncode == 0:
        podman("network", "rm", "--force", name)


def clean() -> None:
    """Remove every host, image and download."""
    if (STATE / "storage.conf").exists() and shutil.which("podman"):
        require_root()
        prepare_machine()
        podman("system", "reset", "--force", check=False)
    for folder in (STATE, UV_CACHE, CACHE / "images", CACHE / "test-wheels"):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help="make and start a host")
    command.add_argument("name")
    command.add_argument(
        "--suite", default=os_release().get("VERSION_CODENAME"), help="release (default: this machine's)"
    )
    command.add_argument("--folder", type=Path, required=True, help="where its SSH key and host key go")
    command.add_argument("--inventory", type=Path, help="where an inventory of it goes")
    command.add_argument("--group", default="cpu", help="its preset's group in that inventory")
    command = commands.add_parser("down", help="remove hosts")
    command.add_argument("names", nargs="+")
    commands.add_parser("clean", help="remove every host, image and download")
    options = parser.parse_args()
    try:
        if options.command == "up":
            box = up(options.name, options.suite, options.folder.absolute())
            if options.inventory:
                write_inventory(options.inventory, box, options.group)
            print(json.dumps(box, indent=2))
        elif options.command == "down":
            for name in options.names:
                down(name)
        else:
            clean()
    except HostError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
