"""`infbox key`: make, list and remove API keys. The store itself is `infbox.keys`."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infbox.keys import DEFAULT_KEYS_FILE, KeyStore, read_keys


def register(commands: Any) -> None:
    """Add `key` and its subcommands to the parser."""
    key = commands.add_parser("key", help="make, list and remove API keys")
    actions = key.add_subparsers(title="actions", metavar="ACTION", required=True)

    add = _action(actions, "add", "make a key and print it, this once", _add)
    add.add_argument("name", metavar="NAME", help="whose or what the key is for; the access log shows it")
    _tenant(add)

    ensure = _action(actions, "ensure", "make a key unless one of that name exists", _ensure)
    ensure.add_argument("name", metavar="NAME", help="whose or what the key is for; the access log shows it")
    ensure.add_argument("--out", metavar="FILE", type=Path, required=True, help="where a new key is written (0600)")
    _tenant(ensure)

    shown = _action(actions, "list", "show the keys' names, never the keys", _list)
    shown.add_argument("--json", action="store_true", help="print JSON")

    remove = _action(actions, "remove", "take a key out; it is refused within seconds", _remove)
    remove.add_argument("name", metavar="NAME", help="the key's name, as `infbox key list` shows it")


def _action(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    parser.add_argument(
        "--file", metavar="FILE", type=Path, default=DEFAULT_KEYS_FILE, help="the store (default: %(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def _tenant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", help="keys of one tenant share cached prefixes (default: NAME)")


def _add(options: argparse.Namespace) -> None:
    print(KeyStore(options.file).add(options.name, options.tenant))


def _ensure(options: argparse.Namespace) -> None:
    made = KeyStore(options.file).ensure(options.name, options.out, options.tenant)
    print("created" if made else "unchanged")
    if not made and not options.out.exists():
        print(
            f"note: the key {options.name!r} exists, but {options.out} does not; "
            f"for a new one: infbox key remove {options.name}, then this command again",
            file=sys.stderr,
        )


def _list(options: argparse.Namespace) -> None:
    keys = sorted(read_keys(options.file), key=lambda key: key.name)
    if options.json:
        shown = [{field: value for field, value in asdict(key).items() if field != "sha256"} for key in keys]
        print(json.dumps(shown, indent=2))
        return
    rows = [("NAME", "TENANT", "CREATED"), *((key.name, key.tenant, key.created) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _remove(options: argparse.Namespace) -> None:
    KeyStore(options.file).remove(options.name)
    print(f"removed {options.name}")
