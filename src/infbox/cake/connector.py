# The engine's environment has vLLM and LMCache, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""In the engine: LMCache's connector, which first asks what is stored of a prompt and decides what to do with it.

vLLM takes it by `kv_connector_module_path: infbox.cake.connector`, with `infbox.cake.scheduler.CakeScheduler`. What it
leans on, beside LMCacheMPConnector's own interface:

- a request for which `get_num_new_matched_tokens` says (0, False) without a lookup is computed, and its chunks stored,
  as one of which nothing was found;
- a request that was preempted is asked about anew, and what was computed of it is in vLLM's prefix cache.
"""

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from lmcache.v1.multiprocess.protocols.server_module import ServerModuleCallRequest
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from infbox.cake.rates import ComputeRate, Prediction, choose, predict
from infbox.cake.wire import LIFT, PROGRESS, STOP, THERE, TOLD, Lifted, Lifting, Progress, Prompt, There, Told
from infbox.kv.connector import KeepingConnector

if TYPE_CHECKING:
    from vllm.v1.request import Request

_log = logging.getLogger("vllm.infbox.cake")
# A daemon that takes longer to answer is done without.
ANSWER_SECONDS = 2.0
# What is known of the tails is asked anew when it is older.
FRESH_SECONDS = 0.02
# A tail of which a chunk takes so much longer than the one before is not waited for.
LATE, LATE_SECONDS = 2, 0.5
# What a chunk takes to load, and a split beyond what was predicted, are running means over so many.
REMEMBERED = 8


@dataclass
class Split:
    """A prompt that is computed up to where its tail has been lifted; counts in chunks, times by `time.monotonic`."""

    first: int
    chunks: int
    predicted: Prediction | None
    begun: float
    lifted: Lifted
    heard: float
    waiting_since: float = 0.0
    # Once both ends have met: what had been computed by then, in tokens.
    met: int = 0

    def since(self) -> float:
        """Seconds since a chunk of the tail came, or since the beginning."""
        return time.monotonic() - self.heard + self.lifted.since

    def late(self, pace: float) -> bool:
        """Whether the tail, of which a chunk takes `pace` seconds, is not to be waited for."""
        most = LATE * pace + LATE_SECONDS
        return self.lifted.ended or self.lifted.since > most or self.since() > most + ANSWER_SECONDS


@dataclass
class Load:
    """A prompt that is loaded, and how much of it from beyond the RAM."""

    beyond: int
    begun: float


class CakeConnector(KeepingConnector):
    """LMCache's connector, and what is known of requests that are split."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        given = vllm_config.kv_transfer_config.get_from_extra_config
        self.mode = str(given("cake.mode", "adaptive"))
        self.min_ratio = float(given("cake.min_ratio", 0.2))
        self.rate = ComputeRate()
        self.chunk_seconds = self.extra = 0.0
        # For an answer of the daemon within a step; the scheduler says so before each.
        self.patience = 0.0
        self.splits: dict[str, Split] = {}
        # Both ends have met, and the rest is being loaded.
        self.met: dict[str, Split] = {}
        # The daemon's answers that are to come, since when, and what was decided after them.
        self._asked: dict[str, tuple[Any, float]] = {}
        self._decided: dict[str, str] = {}
        self._loads: dict[str, Load] = {}
        self._claimed: dict[str, int] = {}
        self._progress: Any = None
        self._progress_of: dict[str, int] = {}
        self._progress_at = 0.0
        self._heard_at = 0.0

    # --- what vLLM's scheduler asks

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        """As LMCache's, but for a prompt that is better computed, or split."""
        name = request.request_id
        decided = self._decided.get(name)
        if decided == "load":
            return self._load(request, num_computed_tokens)
        if decided == "front":
            return super().get_num_new_matched_tokens(request, num_computed_tokens)
        if decided:
            return 0, False  # there was no room for it in the step when that was decided
        there = self._there(request)
        if there is None:
            return None, True
        how, predicted = self._decide(request, there, num_computed_tokens)
        _log.debug("%s: %s; %d of %d chunks beyond RAM, %s", name, how, there.beyond, there.chunks, predicted)
        self._decided[name] = how
        if how != "split" and there.chunks:
            self._tell(Told(how))
        if how == "load":
            self._loads[name] = Load(there.beyond, time.monotonic())
            return self._load(request, num_computed_tokens)
        tracker = self._get_or_create_request_tracker(request)
        if how == "split":
            self._split(request, there, num_computed_tokens, predicted)
            if self._front(there) > num_computed_tokens:
                self._decided[name] = "front"
                # LMCache takes the first question after a request as its only one.
                self.scheduler_adapter.maybe_submit_lookup_request(
                    name, tracker.get_token_ids()[: self._front(there)], tracker.cache_salt
                )
                return super().get_num_new_matched_tokens(request, num_computed_tokens)
        return 0, False

    def _load(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        found = super().get_num_new_matched_tokens(request, num_computed_tokens)
        load = self._loads.get(request.request_id)
        if load and found[0] is not None:
            del self._loads[request.request_id]
            if load.beyond:
                self.saw_load((time.monotonic() - load.begun) / load.beyond, load.beyond)
        return found

    def update_state_after_alloc(self, request: "Request", blocks: Any, num_external_tokens: int) -> None:
        """As LMCache's; from here on a prompt whose front was in RAM is split like any other."""
        if self._decided.get(request.request_id) == "front":
            self._decided[request.request_id] = "split"
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def request_finished(self, request: "Request", block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """As LMCache's; nothing more is lifted for it."""
        self.ask_anew(request.request_id, "ended")
        return super().request_finished(request, block_ids)

    # --- what CakeScheduler asks

    def hear(self) -> None:
        """Learn how far the tails have come; of a daemon that does not answer, nothing is expected any more."""
        waiting = self._progress is not None and not self._progress.query()
        if (waiting and time.monotonic() - self._progress_at > ANSWER_SECONDS) or not self.scheduler_adapter.is_healthy:
            self._progress = None
            for name in list(self.splits):
                self.forget(name, "no answer")
        for _ in range(2):
            if time.monotonic() - self._heard_at < FRESH_SECONDS:
                return
            self._ask()
            if self._progress is None or not self._progress.wait(self.patience):
                return
            self._take()

    def claim(self, computed: dict[str, int]) -> None:
        """Tell the daemon what is computed or being computed: tokens, by request."""
        self._claimed = {name: -(-computed.get(name, 0) // self.chunk_tokens) for name in self.splits}
        self._ask()

    def _ask(self) -> None:
        if self._progress is None and self.splits:
            self._progress_at = time.monotonic()
            self._progress_of = {name: self._claimed.get(name, 0) for name in self.splits}
            self._progress = self._call(PROGRESS, Lifting(self._progress_of))

    def _take(self) -> None:
        answer, self._progress, self._heard_at = self._result(self._progress, Progress), None, self._progress_at
        known = answer.lifted if answer else {}
        for name, split in self.splits.items():
            if name in known:
                split.lifted, split.heard = known[name], self._progress_at
            elif name in self._progress_of:
                split.lifted.ended = True  # a daemon that was restarted, or does not know the model

    def forget(self, name: str, why: str) -> None:
        """Lift no more of a request, whose ends have not met."""
        if self.splits.pop(name, None):
            self._call(STOP, name.encode())
            self._tell(Told("split", why))

    def ask_anew(self, name: str, why: str) -> None:
        """A request was preempted or has ended: whatever was decided is void."""
        self.forget(name, why)
        for known in (self._asked, self._decided, self._loads, self.met):
            known.pop(name, None)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk."""
        return self.scheduler_adapter.lmcache_tokens_per_chunk

    # --- deciding

    def _there(self, request: "Request") -> There | None:
        """The daemon's answer, None while it is to come; nothing there if none comes."""
        name, now = request.request_id, time.monotonic()
        if name not in self._asked:
            if not self.scheduler_adapter.is_healthy:
                return There()
            future = self._call(THERE, Prompt(self._key(request)))
            self._asked[name] = (future, now)
            if future is not None:
                future.wait(self.patience)
        future, begun = self._asked[name]
        if future is None or now - begun > ANSWER_SECONDS:
            return There()
        return (self._result(future, There) or There()) if future.query() else None

    def _decide(self, request: "Request", there: There, computed: int) -> tuple[str, Prediction | None]:
        if self.mode == "compute":
            return "compute", None
        first, last = max(self._front(there), computed), self._last(request, there) * self.chunk_tokens
        whole = not request.skip_reading_prefix_cache and not request.kv_transfer_params
        if not there.beyond or last - first < 2 * self.chunk_tokens or not whole:
            return "load", None
        predicted = None
        if self.rate.known and self.chunk_seconds:
            predicted = predict(self.rate, first, last, there.beyond * self.chunk_seconds, request.num_tokens)
            predicted = replace(predicted, extra=self.extra)
        how = choose(self.mode, predicted, self.min_ratio)
        if how != "split":  # what is not tried is learnt no more about, so it is forgotten
            self.extra *= 1 - 1 / REMEMBERED
        return how, predicted

    def _split(self, request: "Request", there: There, computed: int, predicted: Prediction | None) -> None:
        first, last = max(self._front(there), computed) // self.chunk_tokens, self._last(request, there)
        now = time.monotonic()
        self.splits[request.request_id] = Split(first, last, predicted, now, Lifted(last), now)
        self._claimed[request.request_id] = first
        self._call(LIFT, Prompt(self._key(request, last), first))

    def _front(self, there: There) -> int:
        """Tokens from the front on that are in RAM already."""
        return there.front * self.chunk_tokens

    def _last(self, request: "Request", there: There) -> int:
        """Chunks that may be loaded: the prompt's last token is computed in any case."""
        return min(there.chunks, (request.num_tokens - 1) // self.chunk_tokens)

    def meet(self, name: str, computed: int) -> None:
        """Both ends have met: the rest is LMCache's."""
        split = self.splits.pop(name)
        self._call(STOP, name.encode())
        self.saw_load(split.lifted.pace, split.chunks - split.lifted.low)
        split.met = computed
        self.met[name] = split
        self._decided[name] = "load"

    def resumed(self, name: str, there: int) -> Split | None:
        """A request whose ends had met goes on, with the tokens that are `there`."""
        split = self.met.pop(name, None)
        if split:
            computed, loaded = split.met - split.first * self.chunk_tokens, max(there - split.met, 0)
            better = min(split.predicted.compute, split.predicted.load) if split.predicted else 0.0
            seconds = time.monotonic() - split.begun
            if split.predicted:
                beyond = max(seconds - split.predicted.split, 0.0)
                self.extra += (beyond - self.extra) / (REMEMBERED if self.extra else 1)
            self._tell(Told("split", "", computed, loaded, seconds, better))
            _log.debug(
                "%s: computed %d, loaded %d tokens in %.2f s; %s", name, computed, loaded, seconds, split.predicted
            )
        return split

    def saw_load(self, seconds: float, chunks: int) -> None:
        """Chunks took so many seconds each to be lifted."""
        if seconds > 0:
            share = 1 - (1 - 1 / REMEMBERED) ** chunks
            self.chunk_seconds += (seconds - self.chunk_seconds) * (share if self.chunk_seconds else 1)

    # --- the daemon

    def _key(self, request: "Request", chunks: int | None = None) -> Any:
        tokens = list(request.all_token_ids)
        end = (len(tokens) // self.chunk_tokens if chunks is None else chunks) * self.chunk_tokens
        salt = request.cache_salt or ""
        return self.scheduler_adapter._create_key(tokens, 0, end, request.request_id, salt).no_worker_id_version()

    def _tell(self, told: Told) -> None:
        told.rate = self.rate.tokens_per_second()
        self._call(TOLD, told)

    def _call(self, method: str, payload: object) -> Any:
        raw = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
        (client,) = self.scheduler_adapter.req_clients.values()
        try:
            return client.server_module_call(ServerModuleCallRequest(method, raw))
        except Exception as fault:  # whatever the transport raises: the engine goes on without
            _log.warning("the daemon was not asked: %s", fault)
            return None

    def _result(self, future: Any, kind: type) -> Any:
        try:
            answer = future.result(timeout=0)
        except Exception as fault:  # as above
            _log.warning("the daemon does not answer: %s", fault)
            return None
        if not answer.success:
            _log.warning("the daemon refuses: %s", answer.error)
            return None
        return msgspec.msgpack.decode(answer.payload, type=kind)
