"""The `pulumi` command of the simulator: the words of it that this project says, and no others.

`preview`, `up`, `refresh` and `destroy` are the simulator's own engine; the rest reads and writes its state and the
stack files as Pulumi does. `destroy --exclude-protected` keeps protected resources and all that they depend on, as
Pulumi does (https://github.com/pulumi/pulumi/pull/8359).
"""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Say = Callable[..., None]


def answer(simulator: Any, words: list[str], folder: Path, stack: str, say: Say) -> int:
    """Do what one command asks, in a project's folder; returns its exit status."""
    parser = argparse.ArgumentParser(prog="pulumi")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--stack", default=stack)
    for flag in ("json", "yes", "skip-preview", "non-interactive", "exclude-protected", "create"):
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args(words)
    command = Command(simulator, folder, say)
    match options.words:
        case ["stack", "select", name]:
            return command.select(name, options.create)
        case ["stack", "output", *name]:
            return command.output(options.stack, name[0] if name else "", options.json)
        case ["stack", "export"]:
            return command.export(options.stack)
        case ["config"]:
            return command.config(options.stack)
        case ["config", "set", key, value]:
            return command.set_config(options.stack, key, value)
        case ["state", "unprotect", urn]:
            return command.unprotect(options.stack, urn)
        case [("preview" | "up" | "refresh" | "destroy") as action]:
            return command.run(action, options.stack or command.selected(), options.exclude_protected)
        case unknown:
            say(f"error: unknown command {unknown} for pulumi", error=True)
            return 1


class Command:
    """One command in one project. States lie in a folder of the simulator's, named after the project's folder."""

    def __init__(self, simulator: Any, folder: Path, say: Say) -> None:
        self.simulator, self.folder, self.say = simulator, folder, say
        self.states = simulator.states / folder.name
        self.states.mkdir(exist_ok=True)

    def selected(self) -> str:
        file = self.states / "selected"
        return file.read_text() if file.exists() else ""

    def file(self, stack: str) -> Path:
        return self.states / f"{stack or self.selected()}.json"

    def state(self, stack: str) -> dict[str, Any] | None:
        """A stack's state; None, said as Pulumi says it, where there is no such stack."""
        if not (stack or self.selected()):
            self.say("error: no stack selected; please use `pulumi stack select` to choose one", error=True)
            return None
        if not self.file(stack).exists():
            self.say(f"error: no stack named '{stack or self.selected()}' found", error=True)
            return None
        return json.loads(self.file(stack).read_text())

    def select(self, name: str, create: bool) -> int:
        if not self.file(name).exists():
            if not create:
                return 0 if self.state(name) else 255
            self.file(name).write_text(json.dumps({"resources": [], "outputs": {}, "secretOutputs": []}))
            self.say(f"Created stack '{name}'")
        (self.states / "selected").write_text(name)
        return 0

    def output(self, stack: str, name: str, as_json: bool) -> int:
        state = self.state(stack)
        if state is None:
            return 255
        if not name:
            self.say(json.dumps(state["outputs"]))
        elif name not in state["outputs"]:
            self.say(f"error: current stack does not have output property '{name}'", error=True)
            return 255
        else:
            value = state["outputs"][name]
            self.say(json.dumps(value) if as_json or not isinstance(value, str) else value)
        return 0

    def export(self, stack: str) -> int:
        state = self.state(stack)
        if state is None:
            return 255
        known = ("urn", "type", "id", "protect", "outputs")
        found = [{key: entry[key] for key in known if entry.get(key)} for entry in state["resources"]]
        self.say(json.dumps({"version": 3, "deployment": {"resources": found}}))
        return 0

    def stack_file(self, stack: str) -> Path:
        return self.folder / f"Pulumi.{stack or self.selected()}.yaml"

    def config(self, stack: str) -> int:
        file = self.stack_file(stack)
        values = ((yaml.safe_load(file.read_text()) or {}).get("config") if file.exists() else {}) or {}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        self.say(json.dumps({key: {"value": value, "secret": False} for key, value in texts.items()}))
        return 0

    def set_config(self, stack: str, key: str, value: str) -> int:
        file = self.stack_file(stack)
        content = (yaml.safe_load(file.read_text()) if file.exists() else None) or {}
        content["config"] = (content.get("config") or {}) | {key: value}
        file.write_text(yaml.safe_dump(content))
        return 0

    def unprotect(self, stack: str, urn: str) -> int:
        state = self.state(stack)
        for resource in state["resources"] if state else ():
            if resource["urn"] == urn:
                resource["protect"] = False
                self.file(stack).write_text(json.dumps(state))
                self.say("Resource successfully unprotected")
                return 0
        self.say(f"error: no such resource {urn!r} exists in the current state", error=True)
        return 255

    def run(self, action: str, stack: str, exclude_protected: bool) -> int:
        file = self.folder / f"Pulumi.{stack}.yaml"
        region = ((yaml.safe_load(file.read_text()) or {}).get("config") or {}).get("aws:region", "us-east-1")
        with self._set_aside(stack) if exclude_protected else contextlib.nullcontext():
            status, _ = self.simulator.minipulumi.run(
                action,
                str(self.folder),
                stack,
                self.simulator.endpoint,
                str(self.states),
                provider=self.simulator.provider(region),
                out=self.say,
            )
        return status

    @contextlib.contextmanager
    def _set_aside(self, stack: str) -> Iterator[None]:
        """Take what is protected, and what it depends on, out of the state; put it back in the end."""
        state = self.state(stack) or {"resources": []}
        by_urn = {resource["urn"]: resource for resource in state["resources"]}
        kept: set[str] = set()
        left = [urn for urn, resource in by_urn.items() if resource["protect"]]
        while left:
            urn = left.pop()
            if urn in by_urn and urn not in kept:
                kept.add(urn)
                left += [*by_urn[urn]["deps"], by_urn[urn]["parent"]]
        aside = [resource for urn, resource in by_urn.items() if urn in kept]
        self.file(stack).write_text(json.dumps({**state, "resources": [r for u, r in by_urn.items() if u not in kept]}))
        try:
            yield
        finally:
            after = json.loads(self.file(stack).read_text())
            self.file(stack).write_text(json.dumps({**after, "resources": aside + after["resources"]}))
