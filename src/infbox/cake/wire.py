# The engine's environment has LMCache and msgspec, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""What engine and daemon say to each other, over LMCache's own connection. Chunks count from the prompt's front."""

import msgspec
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey

THERE, LIFT, PROGRESS, STOP, TOLD = (f"infbox.{what}" for what in ("there", "lift", "progress", "stop", "told"))


class Prompt(msgspec.Struct):
    """A prompt, of which `first` chunks are there already."""

    key: IPCCacheServerKey
    first: int = 0


class There(msgspec.Struct):
    """How many chunks are stored without a gap, how many from the front on are in RAM, and how many are not in RAM."""

    chunks: int = 0
    front: int = 0
    beyond: int = 0


class Lifting(msgspec.Struct):
    """Of each request, by its id: the chunks that the engine has computed or is computing."""

    claimed: dict[str, int]


class Lifted(msgspec.Struct):
    """How far a tail has come.

    Chunks from `low` to the end are in RAM, and so are those before `front`, which the engine has stored. The last
    piece came `since` seconds ago, and one chunk took `pace` seconds lately (0: not known). `ended`: no more come.
    """

    low: int
    front: int = 0
    since: float = 0.0
    pace: float = 0.0
    ended: bool = False


class Told(msgspec.Struct):
    """What came of a prompt: how it was served, and of one that was split, what of it was computed and what loaded.

    `why` is empty, or what a split ended of before both ends had met. `seconds` are until its KV was there, `better`
    what the better of computing and loading was predicted to take (0: nothing was predicted). `rate`, in tokens a
    second, is what the engine computes a prompt's first tokens at (0: not known).
    """

    how: str
    why: str = ""
    computed: int = 0
    loaded: int = 0
    seconds: float = 0.0
    better: float = 0.0
    rate: float = 0.0


class Progress(msgspec.Struct):
    """Of each request that is known."""

    lifted: dict[str, Lifted]
