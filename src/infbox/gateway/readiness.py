"""Whether the engine generates: the answer of GET /ready, made cheap enough to give to anyone.

A probe is what `infbox.engine_probe` says it is. At most one runs at a time, its verdict is kept for a while, and any
token generated for a client counts as one, until the engine fails a client.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from infbox.engine_probe import one_token
from infbox.errors import NotReadyError
from infbox.gateway.engine import Engine
from infbox.gateway.refusal import Refusal

logger = logging.getLogger(__name__)
PROBE_TIMEOUT_SECONDS = 30.0
BAD_VERDICT_SECONDS = 1.0  # an engine that has just come up should not wait for a whole TTL


class Readiness:
    """The engine's readiness, known for `ttl_seconds` after each token."""

    def __init__(self, engine: Engine, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._last_token = float("-inf")
        self._last_failure = float("-inf")
        self._reason = ""
        self._probe: asyncio.Task[None] | None = None

    def token_seen(self) -> None:
        """The engine generated something."""
        self._last_token = self._clock()

    def doubt(self) -> None:
        """The engine failed a client: tokens seen before prove nothing any more."""
        self._last_token = float("-inf")

    async def reason(self) -> str:
        """Why the engine is not ready, in words for anyone; "" when it is."""
        if not self._known():
            if self._probe is None or self._probe.done():
                self._probe = asyncio.create_task(self._ask())
            await asyncio.shield(self._probe)
        return "" if self._last_token >= self._last_failure else self._reason

    def close(self) -> None:
        """End a probe that is under way."""
        if self._probe is not None:
            self._probe.cancel()

    def _known(self) -> bool:
        now = self._clock()
        bad_seconds = min(self._ttl_seconds, BAD_VERDICT_SECONDS)
        return now - self._last_token < self._ttl_seconds or now - self._last_failure < bad_seconds

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self._generate()
        except TimeoutError:
            self._failed(f"The engine generated no token within {PROBE_TIMEOUT_SECONDS:.0f} s.", "")
        except Refusal as refusal:
            self._failed("The engine does not answer.", refusal.message)
        except NotReadyError as fault:
            self._failed("The engine does not generate.", fault.message)
        else:
            if self._reason:
                logger.info("the engine generates again")
            self._reason = ""
            self.token_seen()

    async def _generate(self) -> None:
        script = one_token()
        try:
            ask = next(script)
            while True:
                ask = script.send(await self._engine.ask(ask))
        except StopIteration:
            return

    def _failed(self, reason: str, detail: str) -> None:
        if reason != self._reason:
            logger.warning("not ready: %s %s", reason, detail)
        self._reason = reason
        self._last_failure = self._clock()
