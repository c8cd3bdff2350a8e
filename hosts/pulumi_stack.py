"""One Pulumi stack, by the `pulumi` command: what `stack.py` asks of it and has it do.

Everything is said with `--stack`, so that nothing depends on which stack a person has selected. Nothing here prints
but Pulumi itself.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infbox.errors import InfboxError

VOLUME = "aws:ebs/volume:Volume"
# What AWS answers when one zone has no machine of the type to give, now or ever.
CAPACITY_FAULTS = re.compile(
    r"InsufficientInstanceCapacity|InsufficientHostCapacity"
    r"|Unsupported: .*not supported in your requested Availability Zone"
)
QUOTA_FAULTS = re.compile(r"VcpuLimitExceeded|MaxSpotInstanceCountExceeded|InstanceLimitExceeded")


@dataclass(frozen=True)
class Resource:
    """A resource of the stack's state: its URN, AWS's id, Pulumi's type, and what AWS said of it."""

    urn: str
    id: str
    type: str
    protected: bool
    outputs: Mapping[str, Any]


class PulumiStack:
    """The stack `name` of the project at `root`. Methods raise InfboxError when Pulumi ends with an error."""

    def __init__(self, root: Path, name: str) -> None:
        if not shutil.which("pulumi"):
            raise InfboxError(
                "there is no `pulumi` command on this machine",
                "install it: https://www.pulumi.com/docs/install/ (its Python packages are in .venv already)",
            )
        self.root, self.name = root, name

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that asks nothing; its output is captured."""
        command = ["pulumi", *words, "--stack", self.name, "--non-interactive"]
        return subprocess.run(command, cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def _ask(self, *words: str) -> str:
        done = self._run(*words)
        if done.returncode:
            raise InfboxError(f"`pulumi {' '.join(words)} --stack {self.name}` failed: {said(done)}", HINT)
        return done.stdout

    def _ask_json(self, *words: str) -> dict[str, Any]:
        said = self._ask(*words)
        try:
            return json.loads(said)
        except ValueError as fault:
            message = f"`pulumi {' '.join(words)} --stack {self.name}` says {said[:60]!r}, which is no JSON"
            raise InfboxError(message, "is it Pulumi? `pulumi version`") from fault

    def select(self) -> None:
        """Make it the selected stack, and make it if it is not there. Pulumi may ask for a passphrase."""
        command = ["pulumi", "stack", "select", self.name, "--create"]
        if subprocess.run(command, cwd=self.root).returncode:
            raise InfboxError(f"Pulumi can neither select nor make the stack `{self.name}`; it says why above", HINT)

    def config(self) -> dict[str, str]:
        """The stack's configuration by full key; secret values are left out."""
        found = self._ask_json("config", "--json")
        return {
            key: str(entry["value"]) for key, entry in found.items() if "value" in entry and not entry.get("secret")
        }

    def set_config(self, key: str, value: str) -> None:
        """Set a configuration value that is no secret."""
        self._ask("config", "set", key, value)

    def resources(self) -> list[Resource]:
        """What the stack's state holds that AWS knows."""
        state = self._ask_json("stack", "export")
        return [
            Resource(entry["urn"], entry["id"], entry["type"], bool(entry.get("protect")), entry.get("outputs") or {})
            for entry in (state.get("deployment") or {}).get("resources") or []
            if entry.get("id")
        ]

    def data_volumes(self) -> list[Resource]:
        """The data volumes that are there."""
        return [resource for resource in self.resources() if resource.type == VOLUME]

    def outputs(self) -> dict[str, Any]:
        """What the stack tells others: inventory, endpoint, instance_ids …; see pulumi/outputs.py."""
        return self._ask_json("stack", "output", "--json")

    def let_go(self, resource: Resource) -> None:
        """Take the protection from a resource."""
        self._ask("state", "unprotect", resource.urn, "--yes")

    def preview(self) -> None:
        """Show what `up` would do."""
        if subprocess.run(["pulumi", "preview", "--stack", self.name], cwd=self.root).returncode:
            raise InfboxError(f"`pulumi preview --stack {self.name}` failed; it says why above", HINT)

    def up(self) -> tuple[bool, str]:
        """Make what the program declares; whether all of it is there, and what Pulumi said."""
        return self._watch("up", "--yes", "--skip-preview")

    def destroy(self) -> tuple[bool, str]:
        """Delete all but what is protected; whether all of that is gone, and what Pulumi said."""
        return self._watch("destroy", "--yes", "--skip-preview", "--exclude-protected")

    def _watch(self, *words: str) -> tuple[bool, str]:
        """Run a command whose output a person sees as it comes."""
        command = ["pulumi", *words, "--stack", self.name, "--non-interactive"]
        lines: list[str] = []

        def follow(stream: Iterable[str]) -> None:
            for line in stream:
                print(f"    {line}", end="", flush=True)
                lines.append(line)

        with subprocess.Popen(
            command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        ) as process:  # fmt: skip
            stream: Iterable[str] = process.stdout or ()
            try:
                follow(stream)
            except KeyboardInterrupt:
                # A terminal sends it to Pulumi too, which then ends with all that it made written down: hear it out.
                follow(stream)
                raise
        return process.returncode == 0, "".join(lines)


HINT = "see what Pulumi says; `pulumi login` chooses where stacks are kept, PULUMI_CONFIG_PASSPHRASE_FILE opens secrets"


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said last, in one line."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"status {done.returncode}, without a word"
