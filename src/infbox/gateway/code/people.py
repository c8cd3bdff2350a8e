"""Who waits for a first token. Prewarming stands back while anybody does."""

import asyncio
import contextlib
from collections.abc import Callable, Generator


class People:
    """Requests of people that have no token yet. One whose answer comes whole waits until it is there."""

    def __init__(self) -> None:
        self._waiting = 0
        self._none_waits = asyncio.Event()
        self._none_waits.set()
        self._somebody_waits = asyncio.Event()

    @contextlib.contextmanager
    def waiting(self) -> Generator[Callable[[], None]]:
        """For as long as a request is served; call what it yields when the first token has come."""
        served = False

        def first_token() -> None:
            nonlocal served
            if not served:
                served = True
                self._add(-1)

        self._add(1)
        try:
            yield first_token
        finally:
            first_token()

    def _add(self, change: int) -> None:
        self._waiting += change
        if self._waiting:
            self._somebody_waits.set()
            self._none_waits.clear()
        else:
            self._none_waits.set()
            self._somebody_waits.clear()

    async def none(self) -> None:
        """Until nobody waits."""
        await self._none_waits.wait()

    async def somebody(self) -> None:
        """Until somebody waits."""
        await self._somebody_waits.wait()
