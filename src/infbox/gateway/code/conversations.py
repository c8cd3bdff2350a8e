"""Which version of a pack a request gets: a conversation keeps the one it began with.

The tokens after the pack are in the engine's cache for the pack they were computed with; a newer version in the middle
of a conversation would have all of them computed again. A request belongs to an earlier one of the same key when its
messages begin with all of the earlier one's and go on: the clients of this API send the whole conversation each time.
The same messages once more are a question asked anew, and get the newest version.

A pin is a number of tokens and their digest, not the ids: within one base versions only grow, so an older one is the
beginning of the newest. A rebase ends all pins of its workspace; so do 30 minutes without a request. The digest matters
where a rebase comes back to an earlier base, with other changes after it.
"""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from infbox.gateway.code.workspaces import Pack

IDLE_SECONDS = 1800.0
PINS_PER_KEY = 1024


@dataclass(frozen=True)
class Pin:
    """A version of a pack: its number, its base, how many of the ids belong to it, and their digest."""

    version: int
    base: str
    tokens: int
    content: bytes

    def holds(self, pack: Pack) -> bool:
        """Whether the version is the beginning of `pack`."""
        if self.base != pack.base or self.tokens > len(pack.ids):
            return False
        return self.version == pack.version or self.content == pack.content(self.tokens)


class Conversations:
    """The pins of all keys; at most `pins_per_key` requests of each are remembered."""

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        pins_per_key: int = PINS_PER_KEY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle_seconds = idle_seconds
        self._pins_per_key = pins_per_key
        self._clock = clock
        self._keys: dict[str, OrderedDict[bytes, tuple[float, Pin]]] = {}

    def pin(self, key: str, pack: Pack, messages: Sequence[object]) -> Pin:
        """The version for a request with these messages, `pack` being the newest; it is remembered for what follows."""
        now = self._clock()
        self._forget(now)
        pins = self._keys.setdefault(key, OrderedDict())
        seed = f"{pack.workspace.tenant}/{pack.workspace.name}".encode()
        marks = list(_running(seed, messages))
        earlier = (pins[mark][1] for mark in reversed(marks[:-1]) if mark in pins)
        found = next((pin for pin in earlier if pin.holds(pack)), None) or newest(pack)
        if marks:
            pins[marks[-1]] = (now, found)
            pins.move_to_end(marks[-1])
        if len(pins) > self._pins_per_key:
            pins.popitem(last=False)
        return found

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def _forget(self, now: float) -> None:
        """Drop what is older than the idle time. Each key's pins are in the order of their use."""
        for key, pins in list(self._keys.items()):
            while pins and next(iter(pins.values()))[0] <= now - self._idle_seconds:
                pins.popitem(last=False)
            if not pins:
                del self._keys[key]


def newest(pack: Pack) -> Pin:
    """The whole of a pack."""
    return Pin(pack.version, pack.base, len(pack.ids), pack.content(len(pack.ids)))


def _running(seed: bytes, messages: Sequence[object]) -> Iterator[bytes]:
    """A digest of the first message, of the first two, and so on."""
    state = hashlib.blake2b(seed, digest_size=16)
    for message in messages:
        text = json.dumps(message, sort_keys=True, separators=(",", ":")).encode()
        state.update(b"%d:" % len(text))
        state.update(text)
        yield state.digest()
