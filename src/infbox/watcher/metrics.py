"""The status in Prometheus' text format, version 0.0.4."""

from collections.abc import Iterable
from typing import Any

from infbox.watcher.service import Watcher
from infbox.watcher.status import full
from infbox.watcher.times import Histogram
from infbox.watcher.workspace import Workspace

_GAUGES = (
    ("files", "Files of the workspace that git would take.", "files"),
    ("files_in_pack", "Files that the pack may hold.", "files_in_pack"),
    ("pack_version", "The pack's version, which grows.", "version"),
    ("pack_tokens", "Tokens of the pack.", "tokens"),
    ("pack_base_tokens", "Tokens of header and base.", "base_tokens"),
    ("pack_overlay_tokens", "Tokens of the overlay.", "overlay_tokens"),
    ("watches", "Watches that the workspace holds.", "watches"),
    ("polled_folders", "Folders without a watch, which are polled.", "polled_folders"),
)


def prometheus(watcher: Watcher) -> str:
    """All metrics."""
    lines: list[str] = []
    each = [(_labels(one), one, full(one, watcher.watches.count(one))) for one in watcher.workspaces.values()]
    for name, text, key in _GAUGES:
        lines += _metric(name, "gauge", text, ((labels, told[key]) for labels, _, told in each))
    lines += _metric("ready", "gauge", "Whether there is a pack to give.", _ready(each))
    lines += _metric("rebases_total", "counter", "Bases made anew.", ((a, c["rebases"]) for a, _, c in each))
    excluded = (
        (f'{labels},reason="{_escape(reason)}"', count)
        for labels, _, told in each
        for reason, count in told["excluded"].items()
    )
    lines += _metric("excluded_files", "gauge", "Files that the pack may not hold, by reason.", excluded)
    warmed = ((labels, one.times.warmed_tokens) for labels, one, _ in each)
    lines += _metric("warmed_tokens_total", "counter", "Tokens of the packs that were warmed.", warmed)
    cached = ((labels, one.times.cached_tokens) for labels, one, _ in each)
    lines += _metric("warmed_cached_tokens_total", "counter", "Those of them that were warm before.", cached)
    lines += _histogram(
        "visible_seconds", "From a save to a pack that shows it.", [(a, b.times.visible) for a, b, _ in each]
    )
    lines += _histogram("warm_seconds", "What warming a pack took.", [(a, b.times.warm) for a, b, _ in each])
    return "\n".join(lines) + "\n"


def _ready(each: list[tuple[str, Workspace, dict[str, Any]]]) -> list[tuple[str, int]]:
    return [(labels, int(one.state == "ready")) for labels, one, _ in each]


def _labels(workspace: Workspace) -> str:
    return f'tenant="{_escape(workspace.settings.tenant)}",workspace="{_escape(workspace.settings.name)}"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP infbox_watcher_{name} {text}", f"# TYPE infbox_watcher_{name} {kind}"]


def _metric(name: str, kind: str, text: str, values: Iterable[tuple[str, float]]) -> list[str]:
    return [*_head(name, kind, text), *(f"infbox_watcher_{name}{{{labels}}} {value}" for labels, value in values)]


def _histogram(name: str, text: str, values: list[tuple[str, Histogram]]) -> list[str]:
    lines = _head(name, "histogram", text)
    full_name = f"infbox_watcher_{name}"
    for labels, histogram in values:
        lines += [f'{full_name}_bucket{{{labels},le="{edge}"}} {count}' for edge, count in histogram.counts.items()]
        lines.append(f'{full_name}_bucket{{{labels},le="+Inf"}} {histogram.count}')
        lines.append(f"{full_name}_sum{{{labels}}} {histogram.total}")
        lines.append(f"{full_name}_count{{{labels}}} {histogram.count}")
    return lines
