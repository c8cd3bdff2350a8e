"""`infbox preset`: list the presets, show one with its parents' values, check them. The work is `infbox.preset`'s."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infbox.preset import GROUP_VARS, Preset, check_presets, find_root, load_hierarchy, load_preset, preset_file
from infbox.variables import problems_error

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def register(commands: "Commands") -> None:
    """Add `infbox preset` and its actions."""
    parser = commands.add_parser("preset", help="show, list and check presets")
    parser.add_argument("--root", type=Path, help="the checkout of infbox (default: the one you are in)")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    action = actions.add_parser("list", help="every preset, those that build on another below it")
    action.set_defaults(run=run_list)
    action = actions.add_parser("show", help="a preset's values, each with the file it comes from")
    action.add_argument("name", metavar="NAME")
    action.add_argument("--json", action="store_true", help="for programs: preset, parents, values, sources")
    action.set_defaults(run=run_show)
    action = actions.add_parser("check", help="say what is wrong with one preset, or with any")
    action.add_argument("name", metavar="NAME", nargs="?")
    action.set_defaults(run=run_check)


def run_list(options: argparse.Namespace) -> int:
    """Print each preset with the first comment of its file."""
    root = _root(options)
    hierarchy = load_hierarchy(root)
    rows = [(f"{'  ' * hierarchy.depth(name)}{name}", _summary(root / preset_file(name))) for name in hierarchy.names]
    width = max((len(label) for label, _ in rows), default=0)
    for label, summary in rows:
        print(f"{label:{width}}  {summary}".rstrip())
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print the merged values of one preset."""
    preset = load_preset(_root(options), options.name)
    print(as_json(preset) if options.json else "\n".join(as_yaml(preset)))
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Print what is wrong, or that nothing is."""
    root = _root(options)
    if problems := check_presets(root, options.name):
        raise problems_error(
            problems, " ".join(["`infbox preset check", *([options.name] if options.name else [])]) + "`"
        )
    print(f"no problem in {options.name or ', '.join(load_hierarchy(root).names)}")
    return 0


def as_json(preset: Preset) -> str:
    """A preset as one JSON object with the keys preset, parents (farthest first), values and sources."""
    sources = {name: str(file) for name, file in preset.sources.items()}
    shape = {"preset": preset.name, "parents": preset.parents, "values": preset.values, "sources": sources}
    return json.dumps(shape, indent=2, ensure_ascii=False)


def as_yaml(preset: Preset) -> Iterator[str]:
    """A preset as YAML lines; behind the first line of each value, the file that it comes from."""
    yield f"# {preset.name}" + "".join(f", which builds on {parent}" for parent in reversed(preset.parents))
    for name, value in preset.values.items():
        first, *rest = _dump({name: value}).splitlines()
        yield f"{first}  # {preset.sources[name]}"
        yield from rest


class _Dumper(yaml.SafeDumper):
    """Writes a string of several lines on one, quoted, so that a comment may stand behind it."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _represent_text)


def _dump(value: dict[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def _summary(path: Path) -> str:
    """The first line of comment in a preset's file."""
    if not path.is_file():
        return f"(no file: {GROUP_VARS / path.name})"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _root(options: argparse.Namespace) -> Path:
    return options.root or find_root(Path.cwd())
