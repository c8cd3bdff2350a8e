# The engine's environment has vLLM and LMCache, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""In the engine: LMCache's connector, whose blocks are vLLM's again only when the daemon is done with them.

The daemon reads from and writes to the engine's memory by itself. LMCache 0.5.6 takes it back too early in two cases:

- A request leaves while its KV is being loaded. LMCache says at once that there is nothing more of it to store, and
  vLLM 0.32 frees its blocks at that; the load's end is then said of a request that vLLM does not know any more, and the
  engine ends itself. Here the end of the request waits for the end of the load.
- A heartbeat is late. LMCache gives up all that is under way, and the daemon, slow but alive, goes on with it in blocks
  that are another request's by then. Here it is given up when the daemon's process is gone, and not before; a daemon
  that hangs is ended by systemd (WatchdogSec=).
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcache.integration.vllm import lmcache_mp_connector
from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector
from lmcache.integration.vllm.vllm_multi_process_adapter import LMCacheMPWorkerAdapter
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from infbox.kv.lifeline import Lifeline

if TYPE_CHECKING:
    from vllm.v1.request import Request

_log = logging.getLogger("vllm.infbox.kv")

_POLL_SECONDS = 0.001


class Answer:
    """A daemon's, to come; no if it never comes, since the daemon is gone."""

    def __init__(self, future: Any, lifeline: Lifeline) -> None:
        self._future, self._lifeline = future, lifeline

    def query(self) -> bool:
        """Whether it is known."""
        return self._future.query() or self._lifeline.gone()

    def result(self, timeout: float | None = None) -> Any:
        """It, as LMCache's."""
        return self._future.result(timeout=timeout) if self._future.query() else False


class KeepingWorker(LMCacheMPWorkerAdapter):
    """LMCache's, in each worker of the engine."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self._waiting = False
        super().__init__(*given, **named)
        self._daemon_socket = Path(named["extra_config"]["infbox.kv_socket"])
        self._lifeline = Lifeline(self._daemon_socket)

    @property
    def is_healthy(self) -> bool:
        """As LMCache's, but for what was begun, which is waited for."""
        return self._waiting or super().is_healthy

    def _usable(self, event: Any) -> None:
        """LMCache drops what is submitted while its health is not set."""
        if self._lifeline.lost() or event is None:
            if self._health_event.is_set():
                _log.warning("the daemon at %s has ended: without it until the next", self._daemon_socket)
            self._health_event.clear()

    def _reregister_kv_caches_callback(self) -> bool:
        """As LMCache's, at the first heartbeat after its health was lost: with the same daemon, or with another."""
        lifeline = Lifeline(self._daemon_socket)
        if lifeline.lost() or not super()._reregister_kv_caches_callback():
            return False
        self._lifeline = lifeline
        return True

    def submit_store_request(self, request_id: str, op: Any, event: Any, *more: Any, **named: Any) -> None:
        """As LMCache's."""
        self._usable(event)
        before = self.store_futures.get(request_id)
        super().submit_store_request(request_id, op, event, *more, **named)
        future = self.store_futures.get(request_id)
        if future is not before:
            self.store_futures[request_id] = Answer(future, self._lifeline)

    def submit_retrieve_request(self, request_id: str, op: Any, event: Any, *more: Any, **named: Any) -> None:
        """As LMCache's."""
        self._usable(event)
        super().submit_retrieve_request(request_id, op, event, *more, **named)
        if request_id in self.retrieve_futures:
            future, blocks = self.retrieve_futures[request_id]
            self.retrieve_futures[request_id] = (Answer(future, self._lifeline), blocks)

    def get_finished(self, finished_req_ids_from_engine: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """As LMCache's, of what was answered, or never will be."""
        self._waiting = True
        try:
            return super().get_finished(finished_req_ids_from_engine)
        finally:
            self._waiting = False

    def handle_preemptions(self, need_flush_before_forward: bool) -> None:
        """As LMCache's, which waits so that nothing is computed into blocks that are read, but not for ever."""
        while need_flush_before_forward and not all(each.query() for each in self.store_futures.values()):
            time.sleep(_POLL_SECONDS)


lmcache_mp_connector.LMCacheMPWorkerAdapter = KeepingWorker


class KeepingConnector(LMCacheMPConnector):
    """LMCache's, in the scheduler: tells vLLM of the end of a load and of a request once and in this order."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._loading: set[str] = set()
        # Of requests that left meanwhile: what is still to be said of each.
        self._left: dict[str, set[str]] = {}

    def update_state_after_alloc(self, request: "Request", blocks: Any, num_external_tokens: int) -> None:
        """As LMCache's."""
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens:
            self._loading.add(request.request_id)

    def request_finished(self, request: "Request", block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """As LMCache's."""
        told = super().request_finished(request, block_ids)
        if told[0] and request.request_id in self._loading:
            self._loading.discard(request.request_id)
            self._left[request.request_id] = {"load", "end"}
        return told

    def update_connector_output(self, connector_output: Any) -> None:
        """As LMCache's, without the end of requests whose blocks are freed at the end of their load."""
        super().update_connector_output(connector_output)
        self._loading.difference_update(connector_output.finished_recving or ())
        for said, names in (("load", connector_output.finished_recving), ("end", connector_output.finished_sending)):
            for name in self._left.keys() & set(names or ()):
                self._left[name].discard(said)
                if said == "end":
                    connector_output.finished_sending -= {name}
                if not self._left[name]:
                    del self._left[name]
