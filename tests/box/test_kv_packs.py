"""Engines that start without their daemon, and with it: workspaces are warm again without being computed again."""

from collections.abc import Iterator

import pytest
from kept import CHUNK_TOKENS, ask, now, prompt, restart, said, tier, wait_until_stored
from live_box import LiveBox
from workspace import WORKSPACE, make, wait_until_warm

pytestmark = [pytest.mark.kv, pytest.mark.kv_long]

FOLDER = "/run/systemd/system/infbox-lmcache.service.d"


@pytest.fixture(autouse=True)
def _workspace(box: LiveBox) -> Iterator[None]:
    box.run("infbox kv clear", check=False)
    make(box, 9)
    yield
    box.run(f"find {WORKSPACE} -mindepth 1 -delete")


def test_a_pack_is_lifted_and_not_computed_after_a_restart_of_daemon_and_engine(box: LiveBox) -> None:
    begun = now(box)
    tokens = wait_until_warm(box)["tokens"]
    assert tokens >= 4 * CHUNK_TOKENS
    wait_until_stored(box)
    # An engine whose daemon cannot start goes on without it, and has to compute.
    box.run(f"mkdir -p {FOLDER} && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >{FOLDER}/99-broken.conf")
    try:
        box.run("systemctl daemon-reload && systemctl stop infbox-lmcache", timeout=60)
        restart(box, "infbox-vllm")
        assert ask(box, prompt(41, 100)).text
        assert said(box, "infbox-vllm", "without it until the next start", begun)
    finally:
        box.run(f"rm {FOLDER}/99-broken.conf && systemctl daemon-reload && systemctl reset-failed infbox-lmcache; true")
    restart(box, "infbox-lmcache", "infbox-vllm")
    assert wait_until_warm(box)["tokens"] == tokens
    whole = (tokens // CHUNK_TOKENS - 1) * CHUNK_TOKENS
    source = "vllm:prompt_tokens_by_source_total"
    assert box.metric(source, 'source="external_kv_transfer"') >= whole
    assert box.metric(source, 'source="local_compute"') <= 3 * CHUNK_TOKENS
    assert tier(box, "RAM")["chunks_of_tenants"]["default"] >= whole // CHUNK_TOKENS
