"""The program `infbox-gateway`: reads its settings, listens, tells systemd, and serves until SIGTERM.

On SIGTERM open requests get GATEWAY_SHUTDOWN_TIMEOUT_SECONDS to finish; what is left then is cut without a terminating
chunk, so that no client takes half an answer for a whole one.
"""

import logging
import os
import socket
import sys

import uvicorn

from infbox.errors import InfboxError
from infbox.gateway import access_log
from infbox.gateway.app import create_app
from infbox.gateway.settings import Settings
from infbox.gateway.systemd import listen, notify, raise_file_limit

# Longer than web servers keep an idle connection to us (Caddy: 2 minutes): the side that writes requests should be the
# one that closes, or a request can meet a closing connection.
KEEP_ALIVE_SECONDS = 300


class NotifyingServer(uvicorn.Server):
    """uvicorn, telling systemd when it accepts and when it stops."""

    def __init__(self, config: uvicorn.Config, notify_socket: str | None) -> None:
        super().__init__(config)
        self._notify_socket = notify_socket

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        notify(self._notify_socket, "READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and let open requests finish."""
        notify(self._notify_socket, "STOPPING=1")
        await super().shutdown(sockets)


def main() -> int:
    """Run the gateway. Returns 1 if it cannot start."""
    _configure_logging()
    try:
        settings = Settings.from_environment(os.environ)
        listener = listen(settings.socket)
    except InfboxError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    raise_file_limit()
    NotifyingServer(make_config(settings), settings.notify_socket).run(sockets=[listener])
    return 0


def make_config(settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the gateway."""

    async def alive() -> None:
        notify(settings.notify_socket, "WATCHDOG=1")

    watchdog = settings.watchdog_seconds
    return uvicorn.Config(
        create_app(settings),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        callback_notify=alive if watchdog else None,
        timeout_notify=int(watchdog / 3) if watchdog else 0,
    )


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(logging.Formatter("%(message)s"))
    access_log.logger.addHandler(lines)
    access_log.logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
