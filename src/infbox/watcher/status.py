"""What people and programs are told of the workspaces, as JSON. Takes no lock: an index in progress can be seen."""

from typing import Any

from infbox.watcher.files import count_excluded
from infbox.watcher.service import Watcher
from infbox.watcher.workspace import Workspace


def brief(workspace: Workspace) -> dict[str, Any]:
    """One workspace, in short: an entry of `GET /workspaces`."""
    pack = workspace.pack
    return {
        "name": workspace.settings.name,
        "tenant": workspace.settings.tenant,
        "state": workspace.state,
        "version": pack.version if pack else 0,
        "tokens": pack.tokens if pack else 0,
        "base_tokens": pack.base_tokens if pack else 0,
        "overlay_tokens": pack.overlay_tokens if pack else 0,
        "files": len(workspace.files),
        "error": str(workspace.fault) if workspace.fault and workspace.state == "failed" else "",
    }


def full(workspace: Workspace, watches: int) -> dict[str, Any]:
    """One workspace, all of it."""
    entries = list(workspace.files.items())
    excluded = count_excluded(entry for _, entry in entries)
    unreadable = [path for path, entry in entries if entry.excluded.startswith("it cannot be read")]
    times, pack = workspace.times, workspace.pack
    watch_fault = workspace.tree.watch_fault(workspace.name)
    done, total = workspace.progress
    return {
        **brief(workspace),
        "path": str(workspace.settings.path),
        "digest": pack.digest if pack else "",
        "files_in_pack": len(entries) - sum(excluded.values()),
        "excluded": excluded,
        "unreadable": unreadable[:20],
        "indexed": {"done": done, "of": total},
        "rebases": workspace.rebases,
        "visible_seconds": times.visible_seconds,
        "warm_seconds": times.warm_seconds,
        "compute_seconds": times.compute_seconds if times.warm_seconds is not None else None,
        "is_warm": bool(pack) and times.warmed_digest == pack.digest if pack else False,
        "watches": watches,
        "polled_folders": len(workspace.tree.unwatched),
        "watch_error": str(watch_fault) if watch_fault else "",
        "state_error": workspace.state_fault,
    }


def status(watcher: Watcher) -> dict[str, Any]:
    """All of them."""
    found: list[dict[str, Any]] = []
    for workspace in watcher.workspaces.values():
        told = full(workspace, watcher.watches.count(workspace))
        last = workspace.times.last_save
        told["last_save_seconds_ago"] = None if last is None else round(watcher.now() - last, 3)
        found.append(told)
    return {"model": str(watcher.model), "workspaces": found}
