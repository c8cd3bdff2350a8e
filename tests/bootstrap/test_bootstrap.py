"""`./bootstrap.sh` on a bare server: a real systemd host that gets the checkout and nothing else."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hosts"))
import host as hosts  # noqa: E402

NAME = "infbox-bootstrap"
CHECKOUT = "/root/infbox"


class Server:
    """A bare server with the checkout in /root/infbox."""

    def __init__(self, facts: dict[str, object]) -> None:
        self.login = hosts.ssh_command(facts)
        # Where this machine's pip has its packages in folders, the server is told, as any site with a mirror would be.
        variables = hosts.package_variables(facts)
        self.options = ["--", "--extra-vars", json.dumps(variables)] if variables else []

    def run(self, *command: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout."""
        line = f"cd {CHECKOUT} 2>/dev/null; {shlex.join(command)}"
        done = subprocess.run([*self.login, line], input=stdin, capture_output=True)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    hosts.down(NAME)
    made = Server(hosts.up(NAME, hosts.os_release()["VERSION_CODENAME"], tmp_path_factory.mktemp("bootstrap")))
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout
    packed = ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"]
    archive = subprocess.run(packed, cwd=ROOT, input=files, check=True, capture_output=True).stdout
    assert made.run("mkdir", CHECKOUT).returncode == 0
    assert made.run("tar", "--extract", f"--directory={CHECKOUT}", stdin=archive).returncode == 0
    yield made
    hosts.down(NAME)


def test_without_root_it_says_what_to_type(server: Server) -> None:
    server.run("chmod", "755", "/root")
    done = server.run("runuser", "-u", "nobody", "./bootstrap.sh")
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "hint: sudo ./bootstrap.sh" in done.stderr


def test_an_option_it_does_not_know_changes_nothing(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--presets", "cpu")
    assert done.returncode == 2
    assert "does not know --presets" in done.stderr
    assert server.run("test", "-e", "/etc/infbox").returncode == 1


def test_an_unknown_preset_stops_before_anything_is_changed(server: Server) -> None:
    done = server.run("./bootstrap.sh", "--preset", "cpuu")
    assert done.returncode == 1
    assert "cpuu" in done.stderr
    assert "did you mean `cpu`" in done.stderr
    assert server.run("test", "-e", "/etc/infbox").returncode == 1


def test_a_bare_server_becomes_a_box_that_answers(server: Server) -> None:
    done = server.run("./bootstrap.sh", *server.options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "this machine has no NVIDIA GPU" in done.stdout
    assert "==> preset cpu" in done.stdout
    assert "The capital of France is Paris" in done.stdout
    asked = server.run(
        "sh", "-c", "curl --version >/dev/null 2>&1 || apt-get install -qq -y curl >/dev/null 2>&1;"
        ' curl -sS --cacert /etc/infbox/ca.crt https://localhost/v1/models'
        ' -H "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"',
    )  # fmt: skip
    assert json.loads(asked.stdout)["data"][0]["id"] == "SmolLM2-135M-Instruct"


def test_a_second_run_changes_nothing(server: Server) -> None:
    done = server.run("./bootstrap.sh", *server.options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    changed = [task for task in done.stdout.split("\nTASK ") if "\nchanged:" in task]
    assert not changed, "\n".join(changed)
    assert "changed=0" in done.stdout


def test_its_services_are_looked_at_without_ansible(server: Server) -> None:
    told = server.run("make", "status")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "vllm            running, for " in told.stdout
    assert "answers         yes\n" in told.stdout
    assert "vllm" in server.run("timeout", "5", "make", "logs").stdout
