"""The watcher's settings: its environment, and the file of workspaces that Ansible writes; both read once, at start.

{"model": "/var/lib/infbox/models/…", "pack_tokens": 100000,
 "workspaces": [{"name": "shop", "tenant": "alice", "path": "/srv/workspaces/alice/shop"}]}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from infbox.errors import InfboxError
from infbox.keys import NAME

ENVIRONMENT_FILE_HINT = "set it in the environment file of the unit: systemctl cat infbox-watcher"


@dataclass(frozen=True)
class WorkspaceSettings:
    """A workspace: its name, whose it is, and the folder."""

    name: str
    tenant: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the watcher is told by its unit.

    socket: the unix socket it listens on. state_dir: what outlives a restart.
    model: the folder with the model's tokenizer.json. pack_tokens: the budget of each pack; None: no limit.
    notify_socket, watchdog_seconds: from systemd itself (Type=notify, WatchdogSec=).
    """

    socket: Path
    state_dir: Path
    model: Path
    pack_tokens: int | None
    workspaces: tuple[WorkspaceSettings, ...]
    notify_socket: str | None = None
    watchdog_seconds: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read WATCHER_*, NOTIFY_SOCKET and WATCHDOG_USEC, and WATCHER_WORKSPACES_FILE.

        Raises:
            InfboxError: naming what is missing or cannot be used.
        """
        watchdog = environment.get("WATCHDOG_USEC", "") or "0"
        if not watchdog.isdecimal():
            raise InfboxError(f"WATCHDOG_USEC is {watchdog!r}, which is not a number from 0 up", ENVIRONMENT_FILE_HINT)
        socket, state = _path(environment, "WATCHER_SOCKET"), _path(environment, "WATCHER_STATE_DIR")
        model, tokens, workspaces = read_workspaces(_path(environment, "WATCHER_WORKSPACES_FILE"))
        return cls(
            socket=socket,
            state_dir=state,
            model=model,
            pack_tokens=tokens,
            workspaces=workspaces,
            notify_socket=environment.get("NOTIFY_SOCKET") or None,
            watchdog_seconds=int(watchdog) / 1e6 or None,
        )


def read_workspaces(path: Path) -> tuple[Path, int | None, tuple[WorkspaceSettings, ...]]:
    """The model's folder, the budget of a pack, and the workspaces.

    Raises:
        InfboxError: the file cannot be read, or something in it cannot be used.
    """
    hint = f"role watcher writes {path}: run the playbook again with --tags watcher"
    try:
        parsed = cast("object", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as fault:
        raise InfboxError(f"WATCHER_WORKSPACES_FILE {path} cannot be read: {fault}", hint) from None
    except (ValueError, RecursionError) as fault:
        raise InfboxError(f"WATCHER_WORKSPACES_FILE {path} is not JSON: {fault}", hint) from None
    content = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    if not isinstance(listed := content.get("workspaces"), list):
        raise InfboxError(f'{path} is not an object with a list "workspaces"', hint)
    if unknown := content.keys() - {"model", "pack_tokens", "workspaces"}:
        raise InfboxError(f"{path} has the unknown key {min(unknown)!r}", hint)
    tokens = content.get("pack_tokens")
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
        raise InfboxError(f'"pack_tokens" of {path} is {tokens!r}, which is not a whole number from 1 up', hint)
    workspaces = [_workspace(path, number, each, hint) for number, each in enumerate(cast("list[object]", listed), 1)]
    known: set[tuple[str, str]] = set()
    for each in workspaces:
        if (each.tenant, each.name) in known:
            raise InfboxError(f"{path} has the workspace {each.tenant}/{each.name} twice", hint)
        known.add((each.tenant, each.name))
    return _absolute(path, '"model"', content.get("model"), hint), tokens, tuple(workspaces)


def _workspace(file: Path, number: int, entry: object, hint: str) -> WorkspaceSettings:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    where = f"workspace {number} of {file}"
    if wrong := fields.keys() ^ {"name", "tenant", "path"}:
        what = "lacks" if min(wrong) not in fields else "has the unknown key"
        raise InfboxError(f"{where} {what} {min(wrong)!r}", hint)
    names: list[str] = []
    for field in ("name", "tenant"):
        value = fields[field]
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise InfboxError(f"{field!r} of {where} is {value!r}, which is not a name", f"a name is {NAME.pattern}")
        names.append(value)
    return WorkspaceSettings(names[0], names[1], _absolute(file, f"'path' of workspace {number}", fields["path"], hint))


def _absolute(file: Path, what: str, value: object, hint: str) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InfboxError(f"{what} in {file} is {value!r}, which is not an absolute path", hint)
    return Path(value)


def _path(environment: Mapping[str, str], variable: str) -> Path:
    value = environment.get(variable, "")
    if not value:
        raise InfboxError(f"{variable} is not set", ENVIRONMENT_FILE_HINT)
    if not value.startswith("/"):
        raise InfboxError(f"{variable} is {value!r}, which is not an absolute path", ENVIRONMENT_FILE_HINT)
    return Path(value)
