"""The environment: read once, and a fault names its variable."""

from pathlib import Path

import pytest

from infbox.errors import InfboxError
from infbox.gateway.settings import Settings

NEEDED = {
    "GATEWAY_SOCKET": "/run/infbox-gateway/gateway.sock",
    "GATEWAY_ENGINE_SOCKET": "/run/infbox-vllm/vllm.sock",
    "GATEWAY_KEYS_FILE": "/etc/infbox/gateway-keys.json",
}


def test_three_paths_suffice():
    settings = Settings.from_environment(NEEDED)
    assert settings == Settings(
        socket=Path(NEEDED["GATEWAY_SOCKET"]),
        engine_socket=Path(NEEDED["GATEWAY_ENGINE_SOCKET"]),
        keys_file=Path(NEEDED["GATEWAY_KEYS_FILE"]),
        max_body_bytes=33554432,
        shutdown_timeout_seconds=20,
        ready_ttl_seconds=10,
        connect_timeout_seconds=5,
        notify_socket=None,
        watchdog_seconds=None,
    )


def test_systemds_own_variables_are_understood():
    settings = Settings.from_environment({**NEEDED, "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"})
    assert (settings.notify_socket, settings.watchdog_seconds) == ("@x", 30.0)


@pytest.mark.parametrize("variable", sorted(NEEDED))
def test_a_missing_or_relative_path_is_named(variable: str):
    with pytest.raises(InfboxError, match=f"{variable} is not set"):
        Settings.from_environment({name: value for name, value in NEEDED.items() if name != variable})
    with pytest.raises(InfboxError, match=f"{variable} is 'x.sock', which is not an absolute path"):
        Settings.from_environment({**NEEDED, variable: "x.sock"})


@pytest.mark.parametrize(
    "variable",
    [
        "GATEWAY_MAX_BODY_BYTES",
        "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS",
        "GATEWAY_READY_TTL_SECONDS",
        "GATEWAY_CONNECT_TIMEOUT_SECONDS",
        "GATEWAY_WATCHER_TIMEOUT_SECONDS",
        "GATEWAY_CONVERSATION_IDLE_SECONDS",
        "GATEWAY_PREWARM_PIECE_SECONDS",
    ],
)
@pytest.mark.parametrize("value", ["32M", "-1", "nan", "inf"])
def test_an_unusable_number_is_named(variable: str, value: str):
    with pytest.raises(InfboxError, match=f"{variable} is '{value}'"):
        Settings.from_environment({**NEEDED, variable: value})


def test_the_watchers_settings_are_optional():
    more = {
        "GATEWAY_WATCHER_SOCKET": "/run/infbox-watcher/watcher.sock",
        "GATEWAY_METRICS_FILE": "/run/infbox-gateway/metrics.prom",
        "GATEWAY_PREWARM_PIECE_SECONDS": "0",
    }
    settings = Settings.from_environment({**NEEDED, **more})
    assert settings.watcher_socket == Path(more["GATEWAY_WATCHER_SOCKET"])
    assert settings.metrics_file == Path(more["GATEWAY_METRICS_FILE"])
    assert (settings.prewarm_piece_seconds, settings.conversation_idle_seconds) == (0, 1800)
    assert Settings.from_environment(NEEDED).watcher_socket is None
    for variable in ("GATEWAY_WATCHER_SOCKET", "GATEWAY_METRICS_FILE"):
        with pytest.raises(InfboxError, match=f"{variable} is 'x'"):
            Settings.from_environment({**NEEDED, variable: "x"})
