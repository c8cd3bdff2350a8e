"""A simulated AWS for the whole project: what tests/aws runs `pulumi`, Ansible's inventories and `make up` against.

The simulator itself lies beside the checkout, in ../shared/aws-sim, where there is one: moto answers as AWS, a small
engine runs the unmodified Pulumi program through a real AWS provider's validation, plans and API calls. Here are the
parts around it: one cloud and one provider in this process for all tests (a provider takes 6 s to start), faults in the
cloud, and a `pulumi` command that `command.py` answers over a socket.

What it lacks, so that nothing here shows it: secrets in stack files, aliases, the CLI's own words; prices, quotas,
capacity (but for the refusals put into it here), spot interruptions, machines that boot. It forgets what a failed `up`
had still to delete, so no test has two zones refused. Its provider is Terraform's 5.100, where pulumi-aws 7 has 6.x.
`delete_before_replace` is added in `delete_first.py`.

    tests/aws/simulator.py     exit status 0 where it can run, 3 with the reason where it cannot
"""

import json
import logging
import os
import shutil
import socketserver
import stat
import sys
import threading
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY.parent / "shared" / "aws-sim"
RETRIES = 2
# What makes moto as strict as it can be; it reads them when it is imported.
CHECKS = (
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION",
    "MOTO_ENABLE_AMI_VALIDATION",
    "MOTO_ENABLE_KEYPAIR_VALIDATION",
    "MOTO_IAM_LOAD_MANAGED_POLICIES",
)
CLIENT = """\
#!{python}
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({socket!r})
    request = {{"words": sys.argv[1:], "folder": os.getcwd(), "stack": os.environ.get("PULUMI_STACK", "")}}
    connection.sendall(json.dumps(request).encode() + b"\\n")
    for line in connection.makefile():
        said = json.loads(line)
        if "status" in said:
            sys.exit(said["status"])
        print(said["text"], file=[sys.stdout, sys.stderr][said["error"]], flush=True)
sys.exit(70)
"""


def why_not() -> str:
    """Why the simulator cannot run here; empty if it can."""
    if not (FOLDER / "minipulumi.py").exists():
        return "there is no simulated AWS beside this checkout (../shared/aws-sim)"
    sys.path.insert(0, str(FOLDER))
    import tfprovider

    if tfprovider.BIN is None:
        return "the simulated AWS needs an AWS provider's binary, and this machine has none (TF_AWS_PROVIDER names one)"
    return ""


class Simulator:
    """The cloud, the provider and the `pulumi` command; `close` ends them. One at a time in a process."""

    def __init__(self, folder: Path) -> None:
        for name in CHECKS:
            os.environ[name] = "true"
        os.environ["MOTO_AMIS_PATH"] = str(FOLDER / "amis.json")
        import cloud
        import delete_first
        import minipulumi
        import moto_plus
        from moto.server import ThreadedMotoServer

        moto_plus.install()
        delete_first.install(minipulumi)
        self.refusals: list[cloud.Refusal] = []
        cloud.install_refusals(self.refusals)
        cloud.install_budgets()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server_of_moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server_of_moto.start()
        host, port = self.server_of_moto.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.minipulumi, self.states = minipulumi, folder / "states"
        self.states.mkdir()
        self._providers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.programs = folder / "bin"
        self._listen(folder / "pulumi.sock")

    def _listen(self, path: Path) -> None:
        from command import answer

        simulator = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                request = json.loads(self.rfile.readline())

                def say(text: str, error: bool = False) -> None:
                    self._send({"text": text, "error": error})

                try:
                    status = answer(simulator, request["words"], Path(request["folder"]), request["stack"], say)
                except Exception as fault:
                    say(f"error: {fault!r}", error=True)
                    status = 255
                self._send({"status": status})

            def _send(self, message: dict[str, object]) -> None:
                self.wfile.write(json.dumps(message).encode() + b"\n")

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.programs.mkdir()
        self.script("pulumi", CLIENT.format(python=sys.executable, socket=str(path)))

    def script(self, name: str, text: str) -> None:
        """Put a program on the PATH of what runs here."""
        program = self.programs / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def provider(self, region: str) -> Any:
        """The provider of a region, started once."""
        with self._lock:
            if region not in self._providers:
                self._providers[region] = self._start_provider(region)
            return self._providers[region]

    def _start_provider(self, region: str) -> Any:
        """The simulator's own provider, which leaves `aws:maxRetries` out; without it, a refusal takes minutes."""
        original = self.minipulumi.Provider
        self.minipulumi.Provider = lambda config: original({**config, "max_retries": RETRIES})
        try:
            return self.minipulumi.make_provider(self.endpoint, region)
        finally:
            self.minipulumi.Provider = original

    def close(self) -> None:
        """End all of it."""
        self.server.shutdown()
        for provider in self._providers.values():
            provider.close()
        self.server_of_moto.stop()

    def environment(self) -> dict[str, str]:
        """What a program needs to meet this AWS and this `pulumi`, and no other."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PULUMI_", "ANSIBLE_"))
        }
        return kept | {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "ANSIBLE_NOCOLOR": "1",
        }

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """A boto3 client of this AWS."""
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, region_name=region, endpoint_url=self.endpoint, **keys)


def copy_project(target: Path) -> Path:
    """A copy of the project that tests may change: all but tests and what git ignores."""
    target.mkdir()
    for name in ("ansible", "hosts", "inventories", "pulumi", "roles"):
        shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*REPOSITORY.glob("*.yml"), *REPOSITORY.glob("Pulumi*.yaml"), REPOSITORY / "ansible.cfg"):
        shutil.copy(file, target)
    return target


if __name__ == "__main__":
    reason = why_not()
    print(reason or f"{FOLDER} can run")
    sys.exit(3 if reason else 0)
