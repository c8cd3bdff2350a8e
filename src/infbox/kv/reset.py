"""A path of the engine's for `infbox kv`: forget the prefix cache, so that KV comes from the daemon.

vLLM has such a path only in its development mode, together with paths that run any code; this is that one alone. It is
on the engine's socket, which the gateway does not pass on.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

PATH = "/infbox/reset-prefix-cache"
App = Callable[[Any, Any, Any], Awaitable[None]]


class ResetPrefixCache:
    """vLLM's `--middleware`: answers `POST` to `PATH` with `{"done": …}`, and passes on all else.

    `done` is false while requests run that hold blocks of the cache.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", PATH):
            await self._app(scope, receive, send)
            return
        done = bool(await scope["app"].state.engine_client.reset_prefix_cache())
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"done": done}).encode()})
