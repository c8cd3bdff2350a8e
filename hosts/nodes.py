"""The machines of a stack over SSH, before Ansible: until they take logins, and until cloud-init is done.

Host keys: a new machine's key is taken down on the first connection and checked from then on, in a file of the stack's
own. It stands there under the instance's id, so a replaced machine at the same address is a new one, and a machine
whose key changed is refused.
"""

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infbox.errors import InfboxError

LOGIN_SECONDS = 900  # a large machine checks terabytes of memory before it boots
CLOUD_INIT_SECONDS = 1800
RETRY_SECONDS = 5
HOST_KEY_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
LOGIN_HINTS = {
    "Permission denied": "the machine knows the key of `infbox:sshPublicKey`; load its private half with `ssh-add`, "
    "or name it in ~/.ssh/config",
    "timed out": "is the address you come from in `infbox:sshCidrs`?",
    "refused": "something answers there that is no SSH server; see the instance's system log in the AWS console",
}


@dataclass(frozen=True)
class Node:
    """One machine: its name in the inventory, where it is, whom it lets in, and its id at AWS."""

    name: str
    address: str
    user: str
    instance_id: str


def nodes_of(outputs: Mapping[str, Any]) -> list[Node]:
    """The machines that a stack's outputs tell of, by rank.

    Raises:
        InfboxError: there are none, or one has no address.
    """
    hosts = ((outputs.get("inventory") or {}).get("_meta") or {}).get("hostvars") or {}
    if not hosts:
        raise InfboxError("the stack's output `inventory` has no hosts", "make it with `make up`")
    ids = outputs.get("instance_ids") or []
    nodes: list[Node] = []
    for (name, values), id_ in zip(sorted(hosts.items(), key=lambda host: host[1]["node_rank"]), ids, strict=True):
        if not values.get("ansible_host"):
            raise InfboxError(f"host `{name}` of the stack has no `ansible_host`", "run `make up` again")
        nodes.append(Node(name, values["ansible_host"], values["ansible_user"], id_))
    return nodes


def write_ssh_config(folder: Path, nodes: list[Node]) -> Path:
    """The stack's ssh_config, for `ssh -F` and Ansible; a person's own settings stand behind it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = folder.absolute() / "known_hosts"
    lines: list[str] = []
    for node in nodes:
        lines += [f"Host {node.name} {node.address}", f"    HostName {node.address}", f"    User {node.user}"]
        lines += [f"    HostKeyAlias {node.instance_id}", f'    UserKnownHostsFile "{known}"']
        lines += ["    StrictHostKeyChecking accept-new"]
    path = folder / "ssh_config"
    path.write_text("\n".join([*lines, "Match all", "    Include ~/.ssh/config", ""]))
    return path


def ssh(config: Path, node: Node, *command: str, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine; never asks anything. Raises subprocess.TimeoutExpired."""
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15"]
    words = ["ssh", "-F", str(config), *options, node.name, *command]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)


def wait_for_login(
    config: Path, node: Node, *, seconds: float = LOGIN_SECONDS, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Until the machine takes our SSH login.

    Raises:
        InfboxError: not within `seconds`, or at once where its host key is another than before.
    """
    end, last = time.monotonic() + seconds, ""
    while True:
        try:
            done = ssh(config, node, "true")
            if done.returncode == 0:
                return
            last = done.stderr.strip()
        except subprocess.TimeoutExpired:
            last = "the connection timed out"
        if HOST_KEY_CHANGED in last:
            known = config.parent.absolute() / "known_hosts"
            raise InfboxError(
                f"{node.name} at {node.address} has another host key than before: it may not be your machine",
                f"if you know why (you reinstalled it by hand): ssh-keygen -R {node.instance_id} -f '{known}'",
            )
        if time.monotonic() > end:
            break
        sleep(RETRY_SECONDS)
    line = last.splitlines()[-1] if last else "no answer"
    hint = next((hint for words, hint in LOGIN_HINTS.items() if words in last), "run `make up` again; nothing is lost")
    raise InfboxError(f"{node.name} at {node.address} takes no SSH login within {seconds:.0f} s: {line}", hint)


def wait_for_cloud_init(config: Path, node: Node, *, seconds: float = CLOUD_INIT_SECONDS) -> list[str]:
    """Until cloud-init says that it is done; returns what it calls recoverable errors.

    Its exit status is 0 done, 1 failed, 2 done with recoverable errors
    (https://docs.cloud-init.io/en/latest/explanation/return_codes.html).

    Raises:
        InfboxError: it failed, does not end within `seconds`, or is not there.
    """
    look = f"look at it: ssh -F {config} {node.name} less /var/log/cloud-init-output.log"
    try:
        done = ssh(config, node, "cloud-init", "status", "--wait", "--long", seconds=seconds)
    except subprocess.TimeoutExpired as fault:
        raise InfboxError(f"cloud-init on {node.name} is not done within {seconds:.0f} s", look) from fault
    # While it waits it prints dots, without a new line behind them.
    lines = [line.lstrip(".").rstrip() for line in done.stdout.splitlines() if line.strip(". ")]
    if done.returncode == 0:
        return []
    if done.returncode == 2:
        return lines
    if done.returncode == 127:
        raise InfboxError(f"the image of {node.name} has no cloud-init", "take an official image in `infbox:image`")
    shown = "\n".join(f"    {line}" for line in lines or done.stderr.splitlines() or ["it does not say why"])
    raise InfboxError(f"cloud-init on {node.name} failed (status {done.returncode}):\n{shown}", look)
