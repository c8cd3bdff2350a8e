"""The two things a service of Type=notify needs: tell the manager its state, and listen on a socket of its own."""

import contextlib
import logging
import os
import resource
import socket
from pathlib import Path

from infbox.errors import InfboxError

logger = logging.getLogger(__name__)
SOCKET_MODE = 0o660  # the web server's group reaches it, other users of the box do not


def notify(address: str | None, state: str) -> None:
    """Send `state` (`READY=1` …) to the manager's socket; nothing where there is none. See sd_notify(3)."""
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto(state.encode(), target)
    except OSError as fault:
        logger.error("%s could not be sent to NOTIFY_SOCKET: %s", state, fault)


def listen(path: Path, variable: str = "GATEWAY_SOCKET") -> socket.socket:
    """A socket that listens at `path` with mode 0660 from its first instant; a killed predecessor's file is replaced.

    It gets its name by a rename, so clients find the old socket or the new one, and never one that refuses them.
    `variable` is where the path comes from.

    Raises:
        InfboxError: the folder is missing or may not be written, or the path is too long for a socket.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        temporary.unlink(missing_ok=True)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listener.bind(str(temporary))
        finally:
            os.umask(before)
        listener.listen(2048)
        temporary.rename(path)
    except OSError as fault:
        listener.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InfboxError(
            f"{variable} {path} cannot be listened on: {fault.strerror or fault}",
            "its folder must exist and be the service user's (RuntimeDirectory=), its path shorter than 90 characters",
        ) from fault
    listener.setblocking(False)
    return listener


def raise_file_limit() -> None:
    """Use as many file descriptors as the unit allows: each stream takes two, and the soft limit is mostly 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
