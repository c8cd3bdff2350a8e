"""KV cache that outlives an engine: what LMCache's daemon of a host runs with, and what is told of it.

    daemon.py   starts the daemon with the settings of its unit; says when it is up
    tier.py     what the tiers behind the RAM have in common, as plugins of the daemon
    disk.py     the one on disk: stays within its size, also over restarts, and each tenant within its own
    remote.py   the one in Redis or Valkey: bounded in time where that is away or slow
    seal.py     what a stored chunk looks like: nothing but what was stored under a name is ever read under it
    api.py      what `infbox kv` asks the daemon
    reset.py    a path of the engine's: forget the prefix cache
    check.py    is an answer from loaded KV the computed one?

The daemon runs in the engine's environment, of the version that the engine's connector has; tier.py, disk.py, remote.py
and api.py alone import LMCache.
"""
