"""Whose key a request carries. The store is written by `infbox key`; see `infbox.keys`."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers

from infbox.errors import KeyStoreError
from infbox.gateway.refusal import Refusal
from infbox.keys import Key, find, read_keys

logger = logging.getLogger(__name__)
CHECK_SECONDS = 1.0


class KeyRing:
    """The keys in force: the store's last good state, looked at again once a second, and for a key that is not in it.

    A store that cannot be read keeps the keys that were in force, and is said once in the journal. Before there was
    any good state every request gets 503: a 401 would tell people that their good keys are bad.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = float("-inf")
        self._state: tuple[int, ...] | None = None
        self._keys: tuple[Key, ...] | None = None
        self._said = ""

    def refresh(self) -> None:
        """Read the store again if it changed, looking at it at most once a second."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._look()

    def authenticate(self, headers: Headers) -> Key:
        """The key that a request carries as `Authorization: Bearer …` or as `X-API-Key: …`.

        Raises:
            Refusal: 401 without a key or with a wrong one, 503 while the store has never been readable.
        """
        self.refresh()
        if self._keys is None:
            raise Refusal(
                503,
                "keys_unavailable",
                "The key store cannot be read; the operator finds why in the gateway's journal.",
            )
        presented = _presented(headers)
        if not presented:
            raise _unauthorized("missing_api_key", "No API key. Send it as 'Authorization: Bearer KEY'.")
        key = find(self._keys, presented.encode("latin-1"))
        if key is None:
            # It may have been made a moment ago, and whoever made it tries it now.
            self._look()
            key = find(self._keys, presented.encode("latin-1"))
        if key is None:
            raise _unauthorized("invalid_api_key", "This API key is not valid.")
        return key

    def _look(self) -> None:
        try:
            seen = os.stat(self._path)
            state = (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_size)
            if state == self._state:
                return
        except OSError:
            state = None  # read_keys finds the words for it
        try:
            self._keys = read_keys(self._path)
        except KeyStoreError as fault:
            self._state = None
            self._say(fault)
        else:
            self._state = state
            self._said = ""
            logger.info("%d keys in force from %s", len(self._keys), self._path)

    def _say(self, fault: KeyStoreError) -> None:
        if fault.message != self._said:
            self._said = fault.message
            consequence = "every request is refused" if self._keys is None else "the keys read before stay in force"
            logger.error("%s; %s. %s", fault.message, consequence, fault.hint)


def _presented(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip()


def _unauthorized(code: str, message: str) -> Refusal:
    return Refusal(401, code, message, {"www-authenticate": "Bearer"})
