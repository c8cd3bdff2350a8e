"""One line a request, for the journal: who asked for what and what came of it; never a body, a query or a header.

POST /v1/chat/completions 200 key=alice 1.234s 5678B
POST /v1/chat/completions 499 key=alice 0.310s 0B (client gone)
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from starlette.types import Message, Send

logger = logging.getLogger(__name__)
CLIENT_GONE_STATUS = 499  # nobody got it; the number that nginx made customary


@dataclass
class AccessRecord:
    """What is known of a request so far. `path` is a template from the allow-list, or "-" for any other path."""

    method: str
    clock: Callable[[], float] = time.monotonic
    path: str = "-"
    key: str = "-"
    status: int = 0
    sent_bytes: int = 0
    outcome: str = ""
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def answered(self) -> bool:
        """Whether an answer has begun."""
        return self.status != 0

    def watching(self, send: Send) -> Send:
        """`send`, with status and bytes noted here."""

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = cast("int", message["status"])
            elif message["type"] == "http.response.body":
                self.sent_bytes += len(cast("bytes", message.get("body", b"")))
            await send(message)

        return noted

    def write(self) -> None:
        """Write the line."""
        method = self.method if self.method.isalpha() and len(self.method) < 10 else "-"
        outcome = f" ({self.outcome})" if self.outcome else ""
        seconds = self.clock() - self.begun
        status = self.status or CLIENT_GONE_STATUS
        logger.info(
            "%s %s %d key=%s %.3fs %dB%s", method, self.path, status, self.key, seconds, self.sent_bytes, outcome
        )
