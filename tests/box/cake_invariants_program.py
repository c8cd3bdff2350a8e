"""Runs on the box in the engine's environment: what Cake leans on in vLLM's scheduler, and what it makes of it.

The scheduler is vLLM's own, with its own block pool and prefix cache; of the model only the shape is there, and what a
step gives is made up. Prints JSON: of each, why not.
"""

import inspect
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPSchedulerAdapter
from pair_parts import SHAPE
from vllm import SamplingParams
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from infbox.cake.connector import CakeConnector, Split
from infbox.cake.rates import ComputeRate
from infbox.cake.scheduler import CakeAsyncScheduler, CakeScheduler, cake_scheduler
from infbox.cake.wire import Lifted

BLOCK, BLOCKS = 32, 40
# Of the prompt that is split, those that are stored.
CHUNKS = 19


class Watched(Scheduler):
    """vLLM's, which may compute of each request what `most` says."""

    most: dict[str, int]

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        given = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        return min(given, self.most.get(request.request_id, given))


class Tail(CakeConnector):
    """Cake's without a daemon: a tail is where the check says, and what is loaded is there at once."""

    chunk_tokens = BLOCK

    def __init__(self) -> None:
        self.rate, self.chunk_seconds, self.splits, self.met = ComputeRate(), 0.001, {}, {}
        self._asked, self._decided, self._loads = {}, {}, {}
        self.loaded, self.patience, self.waited = 0, 0.0, list[float]()

    def hear(self) -> None:
        self.waited.append(self.patience)

    claim = update_state_after_alloc = _call = lambda *_: None
    build_connector_meta = lambda *_: KVConnectorMetadata()  # noqa: E731
    request_finished = request_finished_all_groups = lambda *_: (False, None)
    register_finished_partial_tail = has_pending_block_frees = lambda *_: False
    get_external_cache_hit_sources = take_events = get_kv_connector_stats = on_new_request = lambda *_: None

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._decided.get(request.request_id) == "load":
            self.loaded += CHUNKS * BLOCK - num_computed_tokens
            return CHUNKS * BLOCK - num_computed_tokens, False
        return 0, False


def scheduler(folder: Path, kind: type = Watched) -> Any:
    (folder / "config.json").write_text(json.dumps(SHAPE))
    config = EngineArgs(
        model=str(folder), skip_tokenizer_init=True, block_size=BLOCK, max_model_len=1024, max_num_batched_tokens=512,
        enforce_eager=True, dtype="float32",
    ).create_engine_config()  # fmt: skip
    config.cache_config.num_gpu_blocks = BLOCKS
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=32, dtype=torch.float32)
    kv = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    made = kind(config, kv, StructuredOutputManager(config), BLOCK, log_stats=True)
    made.most = {}
    return made


def request(name: str, tokens: int, first: int = 3) -> Request:
    hasher = get_request_block_hasher(BLOCK, sha256)
    prompt = [(first + place) % 4000 + 3 for place in range(tokens)]
    return Request(name, prompt, SamplingParams(max_tokens=4), None, block_hasher=hasher)


def give(of: Scheduler, planned: Any) -> None:
    """What a model would, of a step."""
    names = [name for name in planned.num_scheduled_tokens if name in of.requests]
    sampled = [[7] if of.requests[name].num_computed_tokens >= of.requests[name].num_tokens else [] for name in names]
    of.update_from_output(planned, ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, sampled))


def step(of: Scheduler) -> dict[str, int]:
    """Schedule, and give back what a model would."""
    planned = of.schedule()
    give(of, planned)
    return planned.num_scheduled_tokens


def lookahead_caps_a_step_and_leaves_others_alone(of: Watched) -> bool:
    of.add_request(request("a", 300))
    of.add_request(request("b", 100, 1000))
    of.most["a"] = 64
    capped = step(of)
    of.most["a"] = 0
    left_out = step(of)
    return capped == {"a": 64, "b": 100} and left_out == {"b": 1} and of.requests["a"] in of.running


def tokens_in_flight_are_those_of_steps_without_output(of: Watched) -> bool:
    of.add_request(request("a", 300))
    of.most["a"] = 64
    planned = of.schedule()
    flying = of.requests["a"].num_in_flight_tokens
    of.update_from_output(planned, ModelRunnerOutput(["a"], {"a": 0}, [[]]))
    return (flying, of.requests["a"].num_in_flight_tokens, of.requests["a"].num_computed_tokens) == (64, 0, 64)


def one_that_is_preempted_is_next_and_finds_what_it_computed(of: Watched) -> bool:
    of.add_request(request("a", 300))
    of.most["a"] = 128
    step(of)
    of.most.clear()
    of.add_request(request("b", 100, 1000))
    again, free = of.requests["a"], of.kv_cache_manager.block_pool.get_num_free_blocks()
    of.running.remove(again)
    of._preempt_request(again, time.monotonic())
    was = again.status, of.kv_cache_manager.block_pool.get_num_free_blocks() - free, next(iter(of.waiting)) is again
    return was == (RequestStatus.PREEMPTED, 4, True) and step(of) == {"a": 172, "b": 100}


def a_preemption_is_counted_where_cake_takes_it_back(of: Watched) -> bool:
    of.add_request(request("a", 300))
    of.most["a"] = 128
    step(of)
    again = of.requests["a"]
    before = again.num_preemptions, len(again.events)
    of.running.remove(again)
    of._preempt_request(again, time.monotonic())
    counted = again.num_preemptions, len(again.events)
    stats = again.prefill_stats
    there = {"num_prompt_tokens", "num_local_cached_tokens", "num_external_cached_tokens"}
    told = stats is not None and there == set(inspect.signature(stats.set).parameters)
    return counted == (before[0] + 1, before[1] + 1) and told


def cake_overrides_what_is_there(_: Watched) -> bool:
    named = {
        "schedule": [], "_preempt_request": ["request", "timestamp"],
        "_reserve_prefill_lookahead": ["request", "num_computed_tokens", "num_new_tokens"],
        "update_from_output": ["scheduler_output", "model_runner_output"],
    }  # fmt: skip
    asked = {"_create_key", "maybe_submit_lookup_request", "is_healthy"}
    return (
        all(set(words) <= set(inspect.signature(getattr(Scheduler, name)).parameters) for name, words in named.items())
        and asked <= set(dir(LMCacheMPSchedulerAdapter))
        and {"token_ids", "cache_salt"} <= set(inspect.signature(LMCacheMPSchedulerAdapter._create_key).parameters)
        and "self.lmcache_tokens_per_chunk" in inspect.getsource(LMCacheMPSchedulerAdapter)
        and callable(CakeConnector._get_or_create_request_tracker)
    )


def the_scheduler_may_be_a_function(of: Watched) -> bool:
    of.scheduler_config.scheduler_cls = "infbox.cake.scheduler.cake_scheduler"
    same = of.scheduler_config.get_scheduler_cls() is cake_scheduler
    return same and issubclass(CakeScheduler, Scheduler) and issubclass(CakeAsyncScheduler, AsyncScheduler)


def split(of: Any, flying: int, ends: int) -> str:
    """One prompt from both ends beside another one, with so many steps in flight: empty, or what is wrong.

    The tail comes down to chunk `ends` at most.
    """
    tail = of.connector = Tail()
    tail.rate.saw(0, 512, 0.02)
    of.add_request(request("a", (CHUNKS + 1) * BLOCK))
    of.add_request(request("b", 100, 3000))
    now, a = time.monotonic(), of.requests["a"]
    tail.splits["a"] = Split(0, CHUNKS, None, now, Lifted(CHUNKS, pace=0.001), now)
    preempt, put_back = of._preempt_request, list[int]()
    of._preempt_request = lambda given, *more: (put_back.append(given.num_in_flight_tokens), preempt(given, *more))
    planned: list[Any] = []
    computed: list[tuple[int, int]] = []
    met = 0
    for number in range(100):
        of._step_seconds = 0.1 if number == 1 else of._step_seconds
        planned.append(of.schedule())
        if tokens := planned[-1].num_scheduled_tokens.get("a"):
            computed.append((a.num_computed_tokens - tokens, a.num_computed_tokens))
            if "a" in tail.splits and computed[-1][1] > (low := tail.splits["a"].lifted.low) * BLOCK:
                return f"computed to {computed[-1][1]}, and the tail began at {low * BLOCK}"
        if "a" in tail.splits:
            there = tail.splits["a"].lifted
            there.low = max(there.low - 1, a.num_computed_tokens // BLOCK, ends)
            there.ended = there.low == ends
            there.front, tail.splits["a"].heard = there.low, time.monotonic()
            met = there.low * BLOCK
        while len(planned) > flying:
            give(of, planned.pop(0))
        if "a" not in of.requests:
            break
    prompt = [part for part in computed if part[0] < (CHUNKS + 1) * BLOCK]
    once = [first for first, _ in prompt[1:-1]] == [last for _, last in prompt[:-2]]
    front, rest = prompt[-2][1], prompt[-1][0]
    if not once or (front, rest) != (met, CHUNKS * BLOCK) or tail.loaded != rest - met or a.num_preemptions:
        return f"computed {prompt}, loaded {tail.loaded}, met at {met}, preempted {a.num_preemptions} times"
    if not math.isclose(tail.waited[1], 0.005):
        return f"a step of 0.1 s waits {tail.waited[1]} s for the daemon"
    if put_back != [0]:
        return f"put back with {put_back} tokens in flight"
    return "" if "a" not in of.requests else "it does not end"


def each_token_of_a_split_is_computed_or_loaded_once(of: Watched) -> bool:
    return of_kind(CakeScheduler, 0)


def so_it_is_with_steps_in_flight(of: Watched) -> bool:
    return of_kind(CakeAsyncScheduler, 1)


def of_kind(kind: type, flying: int) -> bool:
    for ends in (0, CHUNKS - 3):
        with tempfile.TemporaryDirectory() as name:
            if wrong := split(scheduler(Path(name), kind), flying, ends):
                raise AssertionError(f"with a tail down to {ends}: {wrong}")
    return True


CHECKS: list[Callable[[Watched], bool]] = [
    lookahead_caps_a_step_and_leaves_others_alone,
    tokens_in_flight_are_those_of_steps_without_output,
    one_that_is_preempted_is_next_and_finds_what_it_computed,
    a_preemption_is_counted_where_cake_takes_it_back,
    cake_overrides_what_is_there,
    the_scheduler_may_be_a_function,
    each_token_of_a_split_is_computed_or_loaded_once,
    so_it_is_with_steps_in_flight,
]


def holds(check: Callable[[Watched], bool]) -> str:
    """Empty, or why not."""
    with tempfile.TemporaryDirectory() as name:
        try:
            return "" if check(scheduler(Path(name))) else "vLLM does otherwise"
        except Exception as fault:
            return repr(fault)


def main() -> None:
    init_none_hash(sha256)
    told: dict[str, Any] = {check.__name__.replace("_", " "): holds(check) for check in CHECKS}
    print(json.dumps(told))


main()
