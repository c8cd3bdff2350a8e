# The engine's environment has vLLM and LMCache, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""In the engine: LMCache's connector, mended.

A request may leave while its KV is being loaded. LMCache 0.5.6 says at once that there is nothing more of it to store,
and vLLM 0.32 frees its blocks at that, to which the daemon still writes. The load's end is then said of a request that
vLLM does not know any more, and the engine ends itself. Here the blocks are kept until the load has ended.
"""

from typing import TYPE_CHECKING, Any

from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

if TYPE_CHECKING:
    from vllm.v1.request import Request


class KeepingConnector(LMCacheMPConnector):
    """LMCache's, which tells vLLM of the end of a load and of a request once and in this order."""

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
