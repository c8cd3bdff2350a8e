"""`infbox model`: fetch, verify and show the model that the environment names."""

import argparse
import os
from typing import TYPE_CHECKING

from infbox.errors import ModelError
from infbox.model.manifest import checksum_faults, read_manifest, size_faults
from infbox.model.settings import ModelSettings, read_settings

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def register(commands: "Commands") -> None:
    """Add `model` and its three verbs."""
    parser = commands.add_parser(
        "model", help="fetch and verify models", description="The model that MODEL_SOURCE names, under MODEL_ROOT."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    fetch = verbs.add_parser("fetch", help="make MODEL_ROOT/MODEL_NAME what MODEL_SOURCE names")
    fetch.set_defaults(run=run_fetch)
    verify = verbs.add_parser("verify", help="check the fetched folder: structure and sizes")
    verify.add_argument("--full", action="store_true", help="read every file and compare its SHA-256")
    verify.set_defaults(run=run_verify)
    show = verbs.add_parser("show", help="print what is there")
    show.set_defaults(run=run_show)


def run_fetch(options: argparse.Namespace) -> None:
    """`infbox model fetch`"""
    from infbox.model.fetch import fetch

    fetch(read_settings(os.environ), dict(os.environ), _say)


def run_verify(options: argparse.Namespace) -> None:
    """`infbox model verify [--full]`"""
    from infbox.model.verify import check_model

    settings = read_settings(os.environ)
    check_model(settings.folder)
    manifest = read_manifest(settings.folder)
    if manifest is None:
        _say(f"{settings.folder} is a model; it has no manifest, so sizes and checksums are not known")
        return
    faults = size_faults(settings.folder, manifest)
    if options.full and not faults:
        faults = checksum_faults(settings.folder, manifest)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelError(f"{settings.folder}: {faults[0]}{more}", _mend(settings))
    what = "sizes and checksums" if options.full else "sizes"
    size = f"{len(manifest.files)} files, {manifest.total_bytes / 1e9:.2f} GB"
    _say(f"{settings.folder} is whole: {size}, {what} are right")


def run_show(options: argparse.Namespace) -> None:
    """`infbox model show`"""
    settings = read_settings(os.environ)
    folder = settings.folder
    if not os.path.lexists(folder):
        raise ModelError(f"{folder} is not there yet", "run `infbox model fetch`")
    _say(f"folder    {folder}" + (f" -> {os.readlink(folder)}" if folder.is_symlink() else ""))
    manifest = read_manifest(folder)
    if manifest is None:
        _say("manifest  none")
        return
    _say(f"source    {manifest.source}\nrevision  {manifest.revision}")
    for path, entry in manifest.files.items():
        _say(f"file      {entry.size:>15,}  {entry.sha256[:12]}  {path}")


def _mend(settings: ModelSettings) -> str:
    if settings.folder.is_symlink():
        return "copy the folder anew"
    return f"remove {settings.folder} and run `systemctl restart infbox-model`"


def _say(line: str) -> None:
    """A line for the journal, at once."""
    print(line, flush=True)
