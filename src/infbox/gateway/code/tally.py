"""Counters of requests with a workspace and of prewarming, as a file in Prometheus' text format.

What prewarming is worth is the share of its tokens that a request found in the cache later. Every token is counted at
most once on either side, by its position in the prefix: a position that was prewarmed waits for its first hit; what is
prewarmed anew because it was lost, and what a rebase or a restart of the engine threw away, stays without one. Of a
stretch that was interrupted the engine tells nothing; it counts on neither side.
"""

import asyncio
import logging
from collections import Counter
from pathlib import Path

logger = logging.getLogger(__name__)
PERIOD_SECONDS = 5.0
HELP = {
    "infbox_gateway_code_requests_total": "Requests with a workspace that the engine has answered.",
    "infbox_gateway_code_pack_tokens_total": "Tokens of packs in these requests.",
    "infbox_gateway_code_cached_tokens_total": "Tokens of these requests that came from the prefix cache.",
    "infbox_gateway_prewarmed_tokens_total": "Tokens that prewarming has computed.",
    "infbox_gateway_prewarmed_hit_tokens_total": "Tokens that prewarming has computed and a request has found.",
    "infbox_gateway_prewarm_seconds_total": "Seconds that the engine took for prewarming.",
    "infbox_gateway_prewarm_interrupted_total": "Pieces of prewarming that were given up for a request or a new pack.",
}
Span = tuple[int, int]


class Tally:
    """The counters."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._seconds = 0.0
        self._waiting: dict[tuple[str, str], tuple[object, list[Span]]] = {}

    def prewarmed(self, workspace: tuple[str, str], era: object, begin: int, end: int, seconds: float) -> None:
        """Prewarming has computed the positions from `begin` to `end`; `era` changes when all are lost."""
        _, spans = self._spans(workspace, era)
        kept = [piece for span in spans for piece in ((span[0], min(span[1], begin)), (max(span[0], end), span[1]))]
        self._waiting[workspace] = (era, [span for span in [*kept, (begin, end)] if span[0] < span[1]])
        self.counters["prewarmed_tokens"] += max(end - begin, 0)
        self._seconds += seconds

    def answered(self, workspace: tuple[str, str], era: object, pack_tokens: int, end: int, cached: int) -> None:
        """A request was answered whose prefix ends at `end`, `cached` of its tokens being found in the cache."""
        found = min(cached, end)
        era, spans = self._spans(workspace, era)
        hit = sum(max(min(span[1], found) - span[0], 0) for span in spans)
        left = [(max(span[0], found), span[1]) for span in spans if span[1] > found]
        self._waiting[workspace] = (era, left)
        self.counters["prewarmed_hit_tokens"] += hit
        self.counters["code_requests"] += 1
        self.counters["code_pack_tokens"] += pack_tokens
        self.counters["code_cached_tokens"] += cached

    def interrupted(self) -> None:
        """A piece of prewarming was given up."""
        self.counters["prewarm_interrupted"] += 1

    def text(self) -> str:
        """All counters in Prometheus' text format."""
        lines: list[str] = []
        for name, words in HELP.items():
            short = name.removeprefix("infbox_gateway_").removesuffix("_total")
            value = f"{self._seconds:.3f}" if short == "prewarm_seconds" else str(self.counters[short])
            lines += [f"# HELP {name} {words}", f"# TYPE {name} counter", f"{name} {value}"]
        return "\n".join(lines) + "\n"

    async def keep(self, path: Path) -> None:
        """Write the file every few seconds until cancelled, whole or not at all."""
        failed = False
        while True:
            temporary = path.with_name(f".{path.name}")
            try:
                temporary.write_text(self.text())
                temporary.rename(path)
            except OSError as fault:
                if not failed:
                    logger.error("%s cannot be written: %s", path, fault)
                failed = True
            else:
                failed = False
            await asyncio.sleep(PERIOD_SECONDS)

    def _spans(self, workspace: tuple[str, str], era: object) -> tuple[object, list[Span]]:
        known = self._waiting.get(workspace)
        return known if known is not None and known[0] == era else (era, [])
