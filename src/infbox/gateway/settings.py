"""The gateway's settings: its environment, read once at start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infbox.errors import InfboxError

Number = TypeVar("Number", int, float)
ENVIRONMENT_FILE_HINT = "set it in the environment file of the unit: systemctl cat infbox-gateway"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the gateway is told by its unit.

    socket: the unix socket it listens on. engine_socket: the engine's. keys_file: the store that `infbox key` writes.
    activity_file: where it writes when the last request was; nowhere if not set.
    watcher_socket: the watcher's, for requests with a workspace; there are none if not set.
    watcher_timeout_seconds: how long the watcher may take for one answer.
    conversation_idle_seconds: how long a conversation keeps its version of a pack without a request.
    prewarm_piece_seconds: how long the engine should take for one piece of prewarming; 0: no prewarming.
    metrics_file: where it writes its counters in Prometheus' text format; nowhere if not set.
    notify_socket, watchdog_seconds: from systemd itself (Type=notify, WatchdogSec=).
    """

    socket: Path
    engine_socket: Path
    keys_file: Path
    max_body_bytes: int = 33_554_432
    shutdown_timeout_seconds: int = 20
    ready_ttl_seconds: float = 10
    connect_timeout_seconds: float = 5
    activity_file: Path | None = None
    watcher_socket: Path | None = None
    watcher_timeout_seconds: float = 15
    conversation_idle_seconds: float = 1800
    prewarm_piece_seconds: float = 1
    metrics_file: Path | None = None
    notify_socket: str | None = None
    watchdog_seconds: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read GATEWAY_*, NOTIFY_SOCKET and WATCHDOG_USEC.

        Raises:
            InfboxError: naming the variable that is missing or that cannot be used.
        """
        watchdog_usec = _number(environment, "WATCHDOG_USEC", int, 0, least=0)
        return cls(
            socket=_path(environment, "GATEWAY_SOCKET"),
            engine_socket=_path(environment, "GATEWAY_ENGINE_SOCKET"),
            keys_file=_path(environment, "GATEWAY_KEYS_FILE"),
            max_body_bytes=_number(environment, "GATEWAY_MAX_BODY_BYTES", int, cls.max_body_bytes, least=1),
            shutdown_timeout_seconds=_number(
                environment, "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS", int, cls.shutdown_timeout_seconds, least=0
            ),
            ready_ttl_seconds=_number(
                environment, "GATEWAY_READY_TTL_SECONDS", float, cls.ready_ttl_seconds, least=0.0
            ),
            connect_timeout_seconds=_number(
                environment, "GATEWAY_CONNECT_TIMEOUT_SECONDS", float, cls.connect_timeout_seconds, least=0.001
            ),
            activity_file=_optional_path(environment, "GATEWAY_ACTIVITY_FILE"),
            watcher_socket=_optional_path(environment, "GATEWAY_WATCHER_SOCKET"),
            watcher_timeout_seconds=_number(
                environment, "GATEWAY_WATCHER_TIMEOUT_SECONDS", float, cls.watcher_timeout_seconds, least=0.001
            ),
            conversation_idle_seconds=_number(
                environment, "GATEWAY_CONVERSATION_IDLE_SECONDS", float, cls.conversation_idle_seconds, least=0.0
            ),
            prewarm_piece_seconds=_number(
                environment, "GATEWAY_PREWARM_PIECE_SECONDS", float, cls.prewarm_piece_seconds, least=0.0
            ),
            metrics_file=_optional_path(environment, "GATEWAY_METRICS_FILE"),
            notify_socket=environment.get("NOTIFY_SOCKET") or None,
            watchdog_seconds=watchdog_usec / 1e6 or None,
        )


def _path(environment: Mapping[str, str], variable: str) -> Path:
    value = environment.get(variable, "")
    if not value:
        raise InfboxError(f"{variable} is not set", ENVIRONMENT_FILE_HINT)
    if not value.startswith("/"):
        raise InfboxError(f"{variable} is {value!r}, which is not an absolute path", ENVIRONMENT_FILE_HINT)
    return Path(value)


def _optional_path(environment: Mapping[str, str], variable: str) -> Path | None:
    return _path(environment, variable) if environment.get(variable) else None


def _number(
    environment: Mapping[str, str], variable: str, kind: Callable[[str], Number], default: Number, least: Number
) -> Number:
    value = environment.get(variable, "")
    if not value:
        return default
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not least <= number < float("inf"):
        raise InfboxError(f"{variable} is {value!r}, which is not a number from {least} up", ENVIRONMENT_FILE_HINT)
    return number
