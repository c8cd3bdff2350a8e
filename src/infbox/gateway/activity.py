"""When the last request was, in a file that `infbox.idle` reads to decide whether the machine may stop.

A request costs two increments; a task writes the file every few seconds, whether anything happened or not, so that a
reader can tell a quiet gateway from one that does not write. Times are of CLOCK_BOOTTIME, which nobody sets. A start
counts as a request: one that was open when the gateway was killed is not forgotten.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Generator
from pathlib import Path

from infbox.idle import boottime

logger = logging.getLogger(__name__)
PERIOD_SECONDS = 5.0


class Activity:
    """What the gateway has to do; written to `path` while `keep` runs, nowhere if there is no path."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = boottime) -> None:
        self._path = path
        self._clock = clock
        self._in_flight = 0
        self._seen = True
        self._last = clock()
        self._failed = False

    @contextlib.contextmanager
    def request(self) -> Generator[None]:
        """For as long as a request is served."""
        self._in_flight += 1
        self._seen = True
        try:
            yield
        finally:
            self._in_flight -= 1
            self._seen = True

    async def keep(self) -> None:
        """Write until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(PERIOD_SECONDS)

    def write(self) -> None:
        """Write the file anew, whole or not at all."""
        now = self._clock()
        if self._seen or self._in_flight:
            self._last, self._seen = now, False
        if self._path is None:
            return
        record = {"in_flight": self._in_flight, "last_request": self._last, "written": now}
        temporary = self._path.with_name(f".{self._path.name}")
        try:
            temporary.write_text(json.dumps(record))
            temporary.rename(self._path)
        except OSError as fault:
            if not self._failed:
                logger.error("%s cannot be written, so that the machine will not stop by itself: %s", self._path, fault)
            self._failed = True
        else:
            self._failed = False
