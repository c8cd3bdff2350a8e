"""Which requests exist. Everything else is 404 before keys, bodies or the engine come into it.

Paths are compared as the client sent them, undecoded: `/v1%2Fmodels` or `//v1/models` are not `/v1/models`, so no
decoding or normalising by anyone behind us can turn an allowed path into another one.
There is no /v1/embeddings: an engine that generates text does not embed.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from infbox.gateway.refusal import Refusal

HEALTH = "/health"
READY = "/ready"
MODELS = "/v1/models"
MODEL = "/v1/models/{id}"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

METHODS = {HEALTH: "GET", READY: "GET", MODELS: "GET", MODEL: "GET", CHAT: "POST", COMPLETIONS: "POST"}
FIXED_PATHS = {path.encode(): path for path in METHODS if path != MODEL}
MODEL_PREFIX = b"/v1/models/"
MODEL_ID = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9][\w.:@+-]*(/[A-Za-z0-9][\w.:@+-]*)*", re.ASCII)


@dataclass(frozen=True)
class Route:
    """An allowed request: its path as the tables above write it, and the model's id where the path holds one."""

    template: str
    model: str = ""


def route(method: str, raw_path: bytes) -> Route:
    """The route of a request.

    Raises:
        Refusal: 404 for a path that is not listed, 405 for a listed path with another method.
    """
    found = _find(raw_path)
    if found is None:
        raise Refusal(404, "not_found", "There is nothing at this path.")
    allowed = METHODS[found.template]
    if method != allowed:
        raise Refusal(405, "method_not_allowed", f"This path takes {allowed} only.", {"allow": allowed})
    return found


def _find(raw_path: bytes) -> Route | None:
    if template := FIXED_PATHS.get(raw_path):
        return Route(template)
    if raw_path.startswith(MODEL_PREFIX):
        model = unquote(raw_path[len(MODEL_PREFIX) :].decode("latin-1"))
        if MODEL_ID.fullmatch(model):
            return Route(MODEL, model)
    return None
