"""Which image is meant: a name and the digest of its content, `docker.io/vllm/vllm-openai@sha256:…`.

A tag says what its owner last made of it, so it is no reference here; one beside a digest is for people and left out.
"""

import re
from dataclasses import dataclass

from infbox.errors import ImageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-zA-Z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+")


@dataclass(frozen=True)
class Reference:
    """`name`: registry and repository, without a tag; `digest`: of the manifest, or of the image's configuration."""

    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """From NAME[:TAG]@sha256:DIGEST.

        Raises:
            ImageError: it has no digest, or no name that says its registry.
        """
        named, at, digest = text.partition("@")
        name = re.sub(r":[^:/]+$", "", named) if "/" in named else named
        if not at:
            message = f"`vllm_image` is {text!r}, which has no digest" if text else "`vllm_image` is not set"
            raise ImageError(message, how_to_pin(named))
        if not _DIGEST.fullmatch(digest):
            message = f"`vllm_image` has {digest!r}, which is no digest: sha256: and 64 digits"
            raise ImageError(message, how_to_pin(named))
        if not _NAME.fullmatch(name) or not _has_registry(name):
            hint = "write its registry too, as in docker.io/vllm/vllm-openai@sha256:…"
            raise ImageError(f"`vllm_image` has the name {named!r}, which does not say where it comes from", hint)
        return cls(name, digest)


def _has_registry(name: str) -> bool:
    host = name.split("/")[0]
    return "." in host or ":" in host or host == "localhost"


def how_to_pin(named: str) -> str:
    """What prints the digest of an image, for a hint."""
    name = named or "NAME:TAG"
    return (
        f"`skopeo inspect --format '{{{{.Digest}}}}' docker://{name}` prints it, and so does "
        f"`docker buildx imagetools inspect {name}`; then write {name}@sha256:…"
    )
