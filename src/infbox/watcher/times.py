"""How long a save takes to be visible, and to be warm: for people and metrics, nothing is decided by it."""

from collections.abc import Callable

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Seconds, counted as Prometheus does."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(_BUCKETS, 0)
        self.total = 0.0
        self.count = 0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.total += seconds
        self.count += 1
        for bucket in self.counts:
            if seconds <= bucket:
                self.counts[bucket] += 1


class Times:
    """Of one workspace.

    Attributes:
        last_save: the clock's time of the event that the last new pack began with.
        visible_seconds, warm_seconds: from there; None: not yet, or not after a save.
        compute_seconds: what of `warm_seconds` the engine computed.
        warmed_tokens, cached_tokens: of all versions that were warmed: in all, and those that were warm before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._digest = ""
        self.last_save: float | None = None
        self.visible_seconds: float | None = None
        self.warm_seconds: float | None = None
        self.compute_seconds: float | None = None
        self._is_awaited = False
        self.visible, self.warm = Histogram(), Histogram()
        self.warmed_digest = ""
        self.warmed_tokens = self.cached_tokens = 0

    def exposed(self, digest: str, since: float | None) -> None:
        """A pack was exposed that shows saves `since` then."""
        self._digest = digest
        self.warm_seconds = None
        self._is_awaited = since is not None
        if since is None:
            self.visible_seconds = None
            return
        self.last_save = since
        self.visible_seconds = self._clock() - since
        self.visible.observe(self.visible_seconds)

    def warmed(self, digest: str, seconds: float | None, tokens: int, cached_tokens: int) -> None:
        """A version was warmed, in `seconds`."""
        self.warmed_digest = digest
        self.warmed_tokens += tokens
        self.cached_tokens += cached_tokens
        if seconds is not None:
            self.warm.observe(seconds)
        if digest == self._digest and self.last_save is not None and self._is_awaited:
            self.warm_seconds, self.compute_seconds = self._clock() - self.last_save, seconds
            self._is_awaited = False

    def cooled(self) -> None:
        """The engine that had it is no more. What is warmed from now on was not waited for by a save."""
        self.warmed_digest = ""
        self.warm_seconds = None
        self._is_awaited = False
