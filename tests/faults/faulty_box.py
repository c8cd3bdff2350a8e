"""A host for faults: playbooks run on it, and what there is on it afterwards."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HIERARCHY = ["-i", "inventories/presets.yml"]

Done = subprocess.CompletedProcess[str]


def ansible_module(name: str) -> ModuleType:
    """One of the project's Ansible modules, as Python."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"ansible/plugins/modules/{name}.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def message(done: Done) -> str:
    """The one message that a run stopped with; its problem and its hint."""
    assert done.returncode != 0, done.stdout[-3000:]
    found = re.findall(r"^fatal: .*?\n\n(?=\S|\Z)", done.stdout, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, done.stdout[-4000:]
    return found[0]


def changed(done: Done) -> int:
    """How many tasks changed something."""
    assert done.returncode == 0, done.stdout[-4000:]
    return int(re.findall(r"changed=(\d+)", done.stdout)[-1])


class FaultyBox:
    """One host, and the inventory that names it."""

    def __init__(self, login: list[str], inventory: Path) -> None:
        self.login, self.inventory = login, inventory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        self.environment = kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}

    def run(self, command: str, check: bool = True) -> Done:
        """Run a shell command on the host, as root."""
        done = subprocess.run([*self.login, command], capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def says(self, command: str) -> str:
        """What a command prints."""
        return self.run(command).stdout.strip()

    def command(self, *options: str, tags: str = "", skip: str = "vllm,smoke", **variables: object) -> list[str]:
        """The playbook's command line; variables are given with their types."""
        extra = ["--extra-vars", json.dumps(variables)] if variables else []
        which = ["--tags", tags] if tags else []
        return [str(BIN / "ansible-playbook"), *HIERARCHY, "-i", str(self.inventory), "--skip-tags", skip, *which,
                *extra, *options, "site.yml"]  # fmt: skip

    def play(self, *options: str, tags: str = "", skip: str = "vllm,smoke", **variables: object) -> Done:
        """Run the playbook to its end."""
        command = self.command(*options, tags=tags, skip=skip, **variables)
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900)

    def play_until(self, pattern: str, *, tags: str, **variables: object) -> None:
        """Run the playbook, and kill it and all its children when a line of its output matches."""
        command = self.command(tags=tags, **variables)
        with subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True,
                              start_new_session=True) as running:  # fmt: skip
            assert running.stdout
            seen = []
            for line in running.stdout:
                seen.append(line)
                if re.search(pattern, "".join(seen[-2:])):
                    os.killpg(running.pid, signal.SIGKILL)
                    break
            else:
                raise AssertionError(f"no line matched {pattern!r}:\n{''.join(seen)[-4000:]}")

    def service(self, name: str, **arguments: object) -> Done:
        """Bring one service up to date, as the end of each role does."""
        arguments = {"name": name, **arguments}
        command = [str(BIN / "ansible"), "all", *HIERARCHY, "-i", str(self.inventory), "--become", "--one-line",
                   "--module-name", "infbox_service", "--args", json.dumps(arguments)]  # fmt: skip
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)

    def restarts(self, name: str, **arguments: object) -> bool:
        """Whether bringing the service up to date restarted it."""
        before = self.pid(name)
        done = self.service(name, **arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        restarted = self.pid(name) != before
        assert ("CHANGED" in done.stdout) == restarted, done.stdout
        return restarted

    def pid(self, name: str) -> str:
        """The main process of a service that runs."""
        unit = f"infbox-{name}"
        assert self.says(f"systemctl is-active {unit}") == "active"
        return self.says(f"systemctl show --property=MainPID --value {unit}")

    def touched(self) -> bool:
        """Whether any role has changed the host."""
        return self.run("test -e /etc/infbox", check=False).returncode == 0

    def as_user(self, user: str, command: str) -> Done:
        """Run a command on this machine, as somebody without rights."""
        words = ["runuser", "-u", user, "--", *shlex.split(command)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
