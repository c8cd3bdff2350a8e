#!/usr/bin/env python3
"""`make demo`: a box on this machine, from nothing to an answer; `make demo-down`: gone again.

    hosts/demo.py up [--preset cpu]
    hosts/demo.py down

Nothing remembers that it ran: every stage looks at what is there, so a demo that was killed is simply run again.
What a script needs is in `.demo/box.json`: url, ca_file, api_key, model, ssh.
"""

import argparse
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import host

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
NAME = "infbox-demo"
QUESTION = "What is the capital of France?"


seconds: list[tuple[str, float]] = []


def stage(name: str) -> None:
    """Announce the next stage; the one before it has taken until now."""
    print(f"==> {name}", flush=True)
    seconds.append((name, time.monotonic()))


def on_box(box: dict[str, object], *command: str) -> str:
    """Run a command on the box and return what it says."""
    return host.run(*host.ssh_command(box), shlex.join(command), capture=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, not even for an instant."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


class Endpoint:
    """The box as a client sees it: over TLS, checked against the box's own authority."""

    def __init__(self, url: str, ca_file: Path, api_key: str) -> None:
        self.url, self.api_key = url, api_key
        self.context = ssl.create_default_context(cafile=str(ca_file))

    def ask(self, path: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        """GET, or POST with a body."""
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 (the url is our own box's)
        with urllib.request.urlopen(request, context=self.context, timeout=120) as answer:  # noqa: S310
            return json.load(answer)


def up(preset: str) -> None:
    """Make the box and have it answer."""
    start = time.monotonic()
    host.require_root()
    stage("this machine: .venv with Ansible and infbox")
    subprocess.run(["make", "--no-print-directory", "setup"], cwd=ROOT, check=True)
    stage("a bare host: Debian or Ubuntu with systemd, in a container")
    DEMO.mkdir(mode=0o700, exist_ok=True)
    box = host.up(NAME, host.os_release()["VERSION_CODENAME"], DEMO)
    stage(f"site.yml with preset {preset}")
    inventory = host.write_inventory(DEMO / "inventory.yml", box, preset)
    playbook = [".venv/bin/ansible-playbook", "-i", "inventories/presets.yml", "-i", str(inventory), "site.yml"]
    if subprocess.run(playbook, cwd=ROOT).returncode:
        raise host.HostError(
            "the playbook stopped; its message stands above.\n\n"
            f"hint: look at the box with `{shlex.join(host.ssh_command(box))}`, then run `make demo` again"
        )
    stage(f"asked through TLS, from outside the box: {QUESTION}")
    ca_file, key_file = DEMO / "ca.crt", DEMO / "api_key"
    ca_file.write_text(on_box(box, "cat", "/etc/infbox/ca.crt") + "\n")
    api_key = on_box(box, "cat", "/etc/infbox/keys/default.key")
    write_private(key_file, api_key + "\n")
    url = f"https://{box['address']}"
    endpoint = Endpoint(url, ca_file, api_key)
    model = endpoint.ask("/v1/models")["data"][0]["id"]
    question = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 32}
    answer = endpoint.ask("/v1/chat/completions", question)["choices"][0]["message"]["content"].strip()
    print(f"    {answer}\n")
    facts = {
        "url": url,
        "ca_file": str(ca_file),
        "api_key": api_key,
        "model": model,
        "ssh": shlex.join(host.ssh_command(box)),
    }
    write_private(DEMO / "box.json", json.dumps(facts, indent=2) + "\n")
    report(start, facts, key_file)


def report(start: float, facts: dict[str, str], key_file: Path) -> None:
    """What was done, how long it took, and how to go on."""
    ends = [begun for _, begun in seconds[1:]] + [time.monotonic()]
    print("stage                                                              seconds")
    for (name, begun), end in zip(seconds, ends, strict=True):
        print(f"{name:<66} {end - begun:7.1f}")
    print(f"{'in all':<66} {time.monotonic() - start:7.1f}\n")
    ca_file = os.path.relpath(facts["ca_file"])
    body = json.dumps(
        {"model": facts["model"], "messages": [{"role": "user", "content": "Write a haiku about caches."}]}
    )
    key, box = os.path.relpath(key_file), os.path.relpath(DEMO / "box.json")
    print(f"The API key is in {key}; all of it for scripts: {box}. Try:\n")
    print(f"curl --cacert {ca_file} {facts['url']}/v1/chat/completions \\")
    print(f"  -H \"Authorization: Bearer $(cat {key})\" -H 'Content-Type: application/json' \\")
    print(f"  -d '{body}'\n")
    print(f"The box itself: {facts['ssh']}\nGone again: make demo-down")


def down() -> None:
    """Remove the box, its network and its keys."""
    host.down(NAME)
    shutil.rmtree(DEMO, ignore_errors=True)
    print(f"The demo's box is gone. Downloads are kept in {host.CACHE} for the next one; `make clean` removes them.")


def main() -> int:
    parser = argparse.ArgumentParser(description="A box on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help="make the box and ask it")
    command.add_argument("--preset", default="cpu")
    commands.add_parser("down", help="remove the box")
    options = parser.parse_args()
    try:
        up(options.preset) if options.command == "up" else down()
    except host.HostError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as fault:
        return fault.returncode
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
