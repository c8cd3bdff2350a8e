# The engine's environment has vLLM, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""In the engine: vLLM's scheduler, which ends a split prompt's computing where its lifted tail begins.

What it leans on:

- `schedule` asks `_reserve_prefill_lookahead` for each request how many of the tokens it would compute it may, and
  leaves a running request out of the step at 0;
- `_preempt_request` puts a request back to the front of the waiting queue and frees its blocks, of which the full ones
  stay in the prefix cache until somebody else needs them;
- `update_from_output` is called once for each step that computes something, in the steps' order.
"""

import time
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from infbox.cake.connector import CakeConnector, Split
from infbox.cake.rates import share

# For the engine's own chunks to be stored once both ends have met; then the rest is computed.
STORE_SECONDS = 1.0
# For the daemon's answer, before a step. All that decode wait for it, too: at most this share of what a step takes.
HEAR_SECONDS, HEAR_SHARE = 0.02, 0.05


# Of both schedulers what is added comes first.
_Mixed = Scheduler if TYPE_CHECKING else object


class _Cake(_Mixed):
    """What is added to either of vLLM's schedulers."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._ranges: dict[int, tuple[float, list[tuple[int, int]]]] = {}
        self._updated = self._step_seconds = 0.0

    def schedule(self, *args: Any, **named: Any) -> Any:
        cake: CakeConnector = self.connector
        cake.patience = min(HEAR_SECONDS, HEAR_SHARE * self._step_seconds) if self.running else HEAR_SECONDS
        if cake.splits:
            cake.hear()
            for request in [each for each in self.running if each.request_id in cake.splits]:
                self._meet(cake, request)
        output = super().schedule(*args, **named)
        self._note(output)
        if cake.splits:
            cake.claim({each.request_id: each.num_computed_tokens for each in self.running})
        return output

    def _meet(self, cake: CakeConnector, request: Request) -> None:
        """Put a request back whose both ends have met; give up one of which the ends do not come together."""
        split, computed = cake.splits[request.request_id], request.num_computed_tokens
        low = split.lifted.low
        if computed < low * cake.chunk_tokens or request.num_in_flight_tokens:
            split.waiting_since = 0.0
            return
        if low >= split.chunks:
            cake.forget(request.request_id, "computed before anything was lifted")
        elif split.lifted.front >= low:
            cake.meet(request.request_id, computed)
            self.running.remove(request)
            recorded = len(request.events)
            self._preempt_request(request, time.monotonic())
            del request.events[recorded:]  # of preemption: nobody had too little room
        elif not split.waiting_since:
            split.waiting_since = time.monotonic()
        elif time.monotonic() - split.waiting_since > STORE_SECONDS:
            cake.forget(request.request_id, "its front was not stored")

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        most = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        cake: CakeConnector = self.connector
        split = cake.splits.get(request.request_id)
        if split is None:
            return most
        chunks = self._front_chunks(cake, split, num_computed_tokens, request.num_in_flight_tokens)
        if request.status != RequestStatus.RUNNING:
            chunks = max(chunks, 1)  # one that waits would hold up all behind it
        return min(most, max(chunks * cake.chunk_tokens - num_computed_tokens % cake.chunk_tokens, 0))

    def _front_chunks(self, cake: CakeConnector, split: Split, computed: int, flying: int) -> int:
        """How many chunks of a split prompt to compute in this step, beside the `flying` tokens of steps before."""
        first = computed // cake.chunk_tokens
        gap = split.lifted.low - first
        if gap <= 0:
            return 0

        def front(chunks: int) -> float:
            return cake.rate.seconds(computed - flying, max((first + chunks) * cake.chunk_tokens, computed))

        pace = split.lifted.pace or cake.chunk_seconds
        if split.late(pace):
            best = gap
        elif pace:
            best = share(gap, front, pace, split.since())
        else:
            return 1  # what is best is known when a chunk has come
        # Half of them, and think again: both speeds change. With a step under way that is done when it has ended.
        return -(-best // 2) if best > 2 or not flying else 0

    def _preempt_request(self, request: Request, *args: Any, **named: Any) -> None:
        if request.request_id not in self.connector.met:
            self.connector.ask_anew(request.request_id, "preempted")
        super()._preempt_request(request, *args, **named)

    # --- what a step takes, and what vLLM counts

    def _note(self, output: Any) -> None:
        ranges: list[tuple[int, int]] = []
        for name, tokens in output.num_scheduled_tokens.items():
            request = self.requests[name]
            computed = request.num_computed_tokens
            if computed - tokens < request.num_prompt_tokens:
                ranges.append((computed - tokens, computed))
            if split := self.connector.resumed(name, computed - tokens):
                self._resumed(request, split, computed - tokens)
        if output.num_scheduled_tokens:
            self._ranges[id(output)] = (time.monotonic(), ranges)

    def _resumed(self, request: Request, split: Split, there: int) -> None:
        """A request goes on with the tokens that are `there`: it was not preempted, and what was loaded is told so."""
        request.num_preemptions -= 1
        stats = request.prefill_stats
        if stats and not request.num_preemptions:  # vLLM tells of the first time that a request was computed
            most = stats.num_prompt_tokens - stats.num_local_cached_tokens
            stats.set(
                num_prompt_tokens=stats.num_prompt_tokens,
                num_local_cached_tokens=stats.num_local_cached_tokens,
                num_external_cached_tokens=min(stats.num_external_cached_tokens + max(there - split.met, 0), most),
            )

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now = time.monotonic()
        if step := self._ranges.pop(id(scheduler_output), None):
            begun, ranges = step
            self._step_seconds = now - max(begun, self._updated)
            for first, last in ranges:
                self.connector.rate.saw(first, last, self._step_seconds)
        self._updated = now
        return super().update_from_output(scheduler_output, model_runner_output)


class CakeScheduler(_Cake, Scheduler):
    """For an engine without async scheduling."""


class CakeAsyncScheduler(_Cake, AsyncScheduler):
    """For one with it."""


def cake_scheduler(vllm_config: Any, **given: Any) -> CakeScheduler | CakeAsyncScheduler:
    """The one of both for this engine: vLLM decides on async scheduling after it has read the scheduler's name."""
    kind = CakeAsyncScheduler if vllm_config.scheduler_config.async_scheduling else CakeScheduler
    return kind(vllm_config, **given)
