"""Which workspace a request means.

`<model>:code` means the tenant's only workspace, `<model>:code:<name>` the one of that name; so does the header
`X-Infbox-Workspace: <name>` with any model name. A request with none of these has no workspace in its context.
"""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from infbox.gateway.refusal import Refusal

WORKSPACE_HEADER = "x-infbox-workspace"
SUFFIX = ":code"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Choice:
    """The engine's own name of the model, and the workspace's; "" for the tenant's only one."""

    model: str
    workspace: str


def choice(model: object, headers: Headers) -> Choice | None:
    """What a request's model and headers choose; None where it is no workspace.

    Raises:
        Refusal: 400 when the model's name and the header name two workspaces, 404 for what cannot be a name.
    """
    base, workspace = split(model) if isinstance(model, str) else ("", None)
    named = headers.get(WORKSPACE_HEADER, "").strip()
    if workspace and named and workspace != named:
        raise Refusal(
            400,
            "workspace_ambiguous",
            f"The model's name and the header {WORKSPACE_HEADER} name two different workspaces. Send one of them.",
        )
    chosen = named or workspace
    if chosen is None:
        return None
    if chosen and not NAME.fullmatch(chosen):
        raise unknown()
    return Choice(base, chosen)


def split(model: str) -> tuple[str, str | None]:
    """A model's name without the alias, and the workspace that it names: "" for the only one, None for none."""
    if model.endswith(SUFFIX):
        return model.removesuffix(SUFFIX), ""
    base, found, workspace = model.rpartition(f"{SUFFIX}:")
    return (base, workspace) if found else (model, None)


def unknown() -> Refusal:
    """There is no such workspace, or it is another tenant's: the answer is the same."""
    return Refusal(404, "workspace_not_found", "This key has no workspace of that name. GET /v1/models lists yours.")
