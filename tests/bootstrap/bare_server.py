"""A bare server: a real systemd host that gets the checkout and nothing else."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hosts"))
import host as hosts  # noqa: E402

CHECKOUT = "/root/infbox"

Done = subprocess.CompletedProcess[str]


class Server:
    """A bare server with the checkout in /root/infbox."""

    def __init__(self, name: str, suite: str, folder: Path) -> None:
        hosts.down(name)
        self.facts = hosts.up(name, suite, folder)
        self.login = hosts.ssh_command(self.facts)
        # Where this machine's pip has its packages in folders, the server is told, as any site with a mirror would be.
        variables = hosts.package_variables(self.facts)
        self.options = ["--extra-vars", json.dumps(variables)] if variables else []
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        files = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout
        packed = ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"]
        archive = subprocess.run(packed, cwd=ROOT, input=files, check=True, capture_output=True).stdout
        self.put(archive, CHECKOUT)

    def run(self, *command: str, stdin: bytes | None = None) -> Done:
        """Run a command in the checkout."""
        line = f"cd {CHECKOUT} 2>/dev/null; {shlex.join(command)}"
        done = subprocess.run([*self.login, line], input=stdin, capture_output=True)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    def put(self, archive: bytes, folder: str) -> None:
        """Unpack a tar archive into a folder on it."""
        assert self.run("mkdir", "-p", folder).returncode == 0
        assert self.run("tar", "--extract", f"--directory={folder}", stdin=archive).returncode == 0


def changed(done: Done) -> list[str]:
    """The tasks of a run that changed something; it has to have ended well."""
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return [task for task in done.stdout.split("\nTASK ") if "\nchanged:" in task]
