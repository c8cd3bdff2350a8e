"""Reads the project's YAML files without YAML's silent losses.

PyYAML keeps the last of two equal keys and says nothing; here that is an error, and so are aliases (unless
allowed), other encodings than UTF-8, and files too large to have been written by a person. Who reads with it:
`infbox.variables` (the roles' argument specs) and `infbox.preset` (presets).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from infbox.errors import PresetError

MAX_BYTES = 256 * 1024
_MERGE_KEY = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """One file's mapping: its values, and the line (from 1) on which each top-level key stands."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]


def read_mapping(path: Path, *, aliases: bool = False) -> Document:
    """Read a file whose document is a mapping with string keys; with `aliases` it may use `&name` and `*name`.

    Raises:
        PresetError: the file cannot be read, or is not such a mapping; says which line.
    """
    text = _read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
            raise PresetError(f"{path} is empty", f"write its values, or {{}} for none, or remove it: rm {path}")
        if not isinstance(node, yaml.MappingNode):
            raise PresetError(f"{path} is not a mapping of names to values", "write lines of the form `name: value`")
        _refuse_losses(path, node, set(), aliases)
        values = cast(dict[object, Any], loader.construct_document(node))  # pyright: ignore[reportUnknownMemberType]
    except yaml.YAMLError as fault:
        raise PresetError(f"{path} is not plain YAML: {_describe(fault)}", "mend the line, then try again") from fault
    except (RecursionError, ValueError) as fault:  # ValueError: a date such as 2024-99-99
        raise PresetError(f"{path} is not plain YAML: {fault}", "quote the value, or nest it less") from fault
    for key in values:
        if not isinstance(key, str):
            raise PresetError(f"{path} has the key {key!r}, which is no variable's name", "put the name in quotes")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    return Document(path=path, values=cast(dict[str, Any], values), lines=lines)


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "missing" if not path.exists() else "not a file"
            raise PresetError(f"{path} is {kind}", "it must be one YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as fault:
        raise PresetError(f"{path} cannot be read: {fault.strerror}", f"see who may read it: ls -l {path}") from fault
    if len(content) > MAX_BYTES:
        raise PresetError(f"{path} is larger than {MAX_BYTES // 1024} KiB", "this is hardly the file you meant")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise PresetError(f"{path} is not UTF-8 text (byte {fault.start})", "save it as UTF-8") from fault


def _refuse_losses(path: Path, node: yaml.Node, seen: set[int], aliases: bool) -> None:
    """Refuse equal keys and merges anywhere below `node`, and aliases unless they are allowed."""
    if id(node) in seen and aliases:
        return
    if id(node) in seen:
        line = node.start_mark.line + 1
        raise PresetError(f"{path}:{line} is used again by an alias", "write the value out where it is used")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_losses(path, item, seen, aliases)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE_KEY:
                raise PresetError(f"{path}:{line} merges another mapping (`<<`)", "write the values out")
            if isinstance(key, yaml.ScalarNode):
                name = (key.tag, key.value)
                if name in first_lines:
                    raise PresetError(
                        f"{path}:{line} sets `{key.value}` again, first set on line {first_lines[name]}",
                        "keep one of the two",
                    )
                first_lines[name] = line
            _refuse_losses(path, key, seen, aliases)
            _refuse_losses(path, value, seen, aliases)


def _describe(fault: yaml.YAMLError) -> str:
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark is not None:
        return f"{fault.problem} (line {fault.problem_mark.line + 1})"
    return " ".join(str(fault).split())
