"""The program `infbox-watcher`: reads its settings, listens, tells systemd, and serves until SIGTERM.

It accepts at once; workspaces that are not indexed yet answer 503. On SIGTERM it lets waiting requests go and writes
what outlives a restart.
"""

import asyncio
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn

from infbox.errors import InfboxError
from infbox.gateway.systemd import listen, notify, raise_file_limit
from infbox.watcher.app import Waiters, create_app
from infbox.watcher.service import Watcher
from infbox.watcher.settings import Settings

KEEP_ALIVE_SECONDS = 300
SHUTDOWN_SECONDS = 5


class QuietServer(uvicorn.Server):
    """uvicorn, telling systemd how it is, and sleeping while nobody asks: uvicorn's own loop looks ten times a second
    whether it should end."""

    def __init__(self, config: uvicorn.Config, settings: Settings, waiters: Waiters) -> None:
        super().__init__(config)
        self._settings = settings
        self._waiters = waiters
        self._ending: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end."""
        super().handle_exit(sig, frame)
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        notify(self._settings.notify_socket, "READY=1")

    async def main_loop(self) -> None:
        """Wait for the end, and tell systemd that we live."""
        assert self._ending is not None  # noqa: S101 - startup has made it
        watchdog = self._settings.watchdog_seconds
        while not self.should_exit:
            try:
                async with asyncio.timeout(watchdog / 3 if watchdog else None):
                    await self._ending.wait()
            except TimeoutError:
                notify(self._settings.notify_socket, "WATCHDOG=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and let open requests finish."""
        notify(self._settings.notify_socket, "STOPPING=1")
        self._waiters.close()
        await super().shutdown(sockets)


def main() -> int:
    """Run the watcher. Returns 1 if it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Rust's threads would make each tokenisation use all cores of a box that serves people.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        settings = Settings.from_environment(os.environ)
        watcher = _watcher(settings)
        listener = listen(settings.socket, "WATCHER_SOCKET")
    except InfboxError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    raise_file_limit()
    waiters = Waiters()
    config = uvicorn.Config(
        create_app(watcher, waiters),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    QuietServer(config, settings, waiters).run(sockets=[listener])
    return 0


def _watcher(settings: Settings) -> Watcher:
    try:
        return Watcher(settings)
    except OSError as fault:
        raise InfboxError(
            f"there is no inotify instance to be had: {fault.strerror or fault}",
            "raise it: sysctl fs.inotify.max_user_instances=512",
        ) from None


if __name__ == "__main__":
    sys.exit(main())
