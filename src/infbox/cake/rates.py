"""How fast an engine computes a prompt and its storage gives one back, and what is best for it. Arithmetic alone.

A token at depth d costs `base + slope * d` seconds to compute: the matrices, and attention to what comes before it.
Loading costs the same for each token.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Of what an earlier step told, a later one leaves so much: some fifty steps are remembered.
KEEP = 0.98
# Steps of fewer tokens than these say more of a step's own cost than of a token's.
LEAST_TOKENS = 64
# Over which a rate is told.
FIRST_TOKENS = 1000


class ComputeRate:
    """Seconds to compute tokens, by depth: weighted least squares over the steps so far, old ones forgotten slowly."""

    def __init__(self) -> None:
        self._weight = self._depth = self._square = self._cost = self._mixed = 0.0

    @property
    def known(self) -> bool:
        """Whether any step was seen."""
        return self._weight > 0

    def saw(self, first: int, last: int, seconds: float) -> None:
        """A step computed the tokens `first` (inclusive) to `last` (exclusive) in so many seconds."""
        tokens = last - first
        if tokens < LEAST_TOKENS or seconds <= 0:
            return
        depth, cost = (first + last) / 2, seconds / tokens
        for name, value in (("_weight", 1.0), ("_depth", depth), ("_square", depth * depth), ("_cost", cost),
                            ("_mixed", depth * cost)):  # fmt: skip
            setattr(self, name, getattr(self, name) * KEEP + tokens * value)

    def line(self) -> tuple[float, float]:
        """Seconds of a token at depth 0, and what each token before it adds. Neither is negative."""
        if not self.known:
            return 0.0, 0.0
        mean = self._cost / self._weight
        spread = self._square * self._weight - self._depth**2
        # Depths that are all alike tell nothing of a slope.
        if spread <= 1e-6 * self._depth**2:
            return mean, 0.0
        slope = max((self._mixed * self._weight - self._depth * self._cost) / spread, 0.0)
        base = (self._cost - slope * self._depth) / self._weight
        if base < 0:
            return 0.0, self._mixed / self._square
        return base, slope

    def seconds(self, first: int, last: int) -> float:
        """To compute the tokens `first` (inclusive) to `last` (exclusive)."""
        base, slope = self.line()
        return base * (last - first) + slope * (last**2 - first**2) / 2

    def tokens_per_second(self) -> float:
        """Over a prompt's first tokens; 0 if no step was seen."""
        return FIRST_TOKENS / seconds if (seconds := self.seconds(0, FIRST_TOKENS)) > 0 else 0.0


@dataclass(frozen=True)
class Prediction:
    """Seconds until a prompt's KV is there: all of it computed, all of it loaded, or from both ends until `meet`.

    `rest` are those that what is not stored takes to compute after that, in any case, and `extra` those that splitting
    took beyond `split` lately.
    """

    compute: float
    load: float
    split: float
    meet: int
    rest: float = 0.0
    extra: float = 0.0

    @property
    def gain(self) -> float:
        """What of the better single resource's time to the first token splitting saves."""
        better = min(self.compute, self.load) + self.rest
        return 1 - (self.split + self.extra + self.rest) / better if better > 0 else 0.0


def predict(rate: ComputeRate, first: int, last: int, load_seconds: float, end: int = 0) -> Prediction:
    """For the tokens `first` to `last`, of which storage has the KV, and would give back all in `load_seconds`.

    Those from there to `end` are not stored.

    Both ends meet where computing the front has taken as long as loading the rest: the root of
    `base (x - first) + slope (x^2 - first^2) / 2 = load_seconds (last - x) / (last - first)`.
    """
    base, slope = rate.line()
    compute = rate.seconds(first, last)
    a_token = load_seconds / (last - first)
    linear, half = base + a_token, slope / 2
    given = a_token * last + base * first + half * first**2
    # In the form that loses nothing to cancellation where the slope is small.
    root = linear + (linear**2 + 4 * half * given) ** 0.5
    meet = 2 * given / root if root > 0 else float(first)
    meet = min(max(meet, first), last)
    rest = rate.seconds(last, max(end, last))
    return Prediction(compute, load_seconds, a_token * (last - meet), round(meet), rest)


def share(gap: int, front: Callable[[int], float], pace: float, since: float) -> int:
    """Of `gap` chunks between both ends, how many to compute so that the later end is done soonest.

    `front(n)` are the seconds until n more are computed; the tail comes `pace` seconds a chunk nearer, and its last
    chunk came `since` seconds ago.
    """
    return min(range(gap + 1), key=lambda chunks: (max(front(chunks), (gap - chunks) * pace - since), chunks))


def choose(mode: str, prediction: Prediction | None, min_ratio: float) -> str:
    """`load`, `compute` or `split`, for `vllm_cake_mode` and `vllm_cake_min_ratio`.

    Without a prediction (nothing was measured yet) both are tried at once, which measures both.
    """
    if mode in ("load", "compute"):
        return mode
    if prediction is None or prediction.gain >= min_ratio:
        return "split"
    return "load" if prediction.load <= prediction.compute else "compute"
