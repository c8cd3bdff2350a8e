"""The client to the engine's unix socket."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import aiohttp

from infbox.engine_probe import Answer, Ask
from infbox.gateway.refusal import Refusal

RETRY_AFTER_SECONDS = 5


class Engine:
    """HTTP to one engine. Opened and closed with the application, inside its event loop."""

    def __init__(self, socket_path: Path, connect_timeout_seconds: float) -> None:
        self._socket_path = socket_path
        # No limit on the whole: a long prompt's prefill takes minutes before the first byte.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session."""
        # A new connection each time: on a unix socket it costs next to nothing, and a kept one may be closed by the
        # engine at the very moment a request is written to it.
        connector = aiohttp.UnixConnector(str(self._socket_path), limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    async def close(self) -> None:
        """Close the session and whatever connection is left."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The engine's answer, its body still to be read. Leaving early closes the connection, so the engine aborts.

        Raises:
            Refusal: 503 if nobody listens, 502 if the connection ended before an answer began.
        """
        assert self._session is not None, "open() comes first"  # noqa: S101
        fields = {**(headers or {}), **({} if body is None else {"content-type": "application/json"})}
        try:
            response = await self._session.request(
                method, f"http://engine{path}", data=body, headers=fields, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, TimeoutError):
            raise unavailable() from None
        except aiohttp.ClientError:
            raise broken("The engine closed the connection before it answered.") from None
        del body  # sent; see Question.take_body
        try:
            yield response
        finally:
            response.close()

    async def ask(self, ask: Ask) -> Answer:
        """One whole exchange, for what the gateway itself wants to know. Raises like `request`."""
        body = None if ask.body is None else json.dumps(ask.body).encode()
        async with self.request(ask.method, ask.path, body) as response:
            try:
                return Answer(response.status, await response.read())
            except aiohttp.ClientError:
                raise broken("The engine closed the connection in the middle of its answer.") from None


def unavailable() -> Refusal:
    """Nobody listens on the engine's socket."""
    return Refusal(
        503,
        "engine_unavailable",
        "The engine is starting or down. The operator can look at it with: systemctl status infbox-vllm; "
        "journalctl -u infbox-vllm -n 50",
        {"retry-after": str(RETRY_AFTER_SECONDS)},
    )


def broken(message: str) -> Refusal:
    """The engine is there but did not keep to HTTP, or died on the way."""
    return Refusal(502, "engine_failed", f"{message} The operator can look at: journalctl -u infbox-vllm -n 50")
