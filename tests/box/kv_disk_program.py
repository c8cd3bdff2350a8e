"""Runs on the box in the engine's environment: the tier on disk, with LMCache's own client below it. Prints JSON."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from kv_parts import MIB, found, key, load, store

from infbox.kv.disk import Disk

told: dict[str, Any] = {}


def disk(folder: Path, tenant_mib: int) -> Disk:
    """A tier of 64 MiB, sixteen chunks."""
    return Disk({"folder": str(folder), "capacity_gib": 1 / 16, "tenant_gib": tenant_mib / 1024})


def held(tier: Disk, tenant: str) -> list[int]:
    return sorted(each.chunk_hash[0] for each in tier.held() if each.cache_salt == tenant)


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) // MIB


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    tier = disk(folder, 32)
    store(tier, ("a", 1), ("a", 2), ("b", 1))
    # Two tenants at once, one of them with more than it may have: it keeps the beginning, and nobody else pays for it.
    store(tier, *(("a", number) for number in range(10, 22)), *(("b", number) for number in range(10, 13)))
    told["share"] = {"a": held(tier, "a"), "b": held(tier, "b"), "mib": used(folder), "failures": dict(tier.failures)}
    tier.touch([key("a", 10)])
    store(tier, ("a", 30))
    told["touched"] = held(tier, "a")
    store(tier, ("a", 30))
    told["twice"] = tier.get_usage().total_bytes_used // MIB
    next(folder.glob(f"*{'1e' * 16}@a.data")).unlink()
    tier.delete([key("a", 30)])
    told["deleted by another"] = [30 in held(tier, "a"), tier.get_usage().total_bytes_used // MIB]
    store(tier, *(("c", number) for number in range(8)))
    told["full"] = [used(folder), len(held(tier, "a")), len(held(tier, "b")), held(tier, "c")]
    tier.close()
    (folder / "half-written.tmp").touch()
    (folder / "folder").mkdir()
    tier = disk(folder, 16)
    told["smaller after a restart"] = [len(held(tier, tenant)) for tenant in "abc"]
    told["left"] = sorted(file for file in os.listdir(folder) if not file.endswith(".data"))
    cut = next(each for each in tier.held() if each.cache_salt == "b")
    os.truncate(next(folder.glob(f"*{cut.chunk_hash.hex()}@b.data")), 100)
    loaded, _ = load(tier, ("b", cut.chunk_hash[0]))
    told["cut"] = [loaded, cut in tier.held()]
    told["cleared"] = [tier.clear("c"), held(tier, "c"), tier.clear(None) > 0, tier.held()]
    tier.close()

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", folder], check=True)
    try:
        tier = disk(folder, 64)
        store(tier, *(("a", number) for number in range(4)))
        told["no space"] = [held(tier, "a"), used(folder), dict(tier.failures), tier._why_not()]
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        store(tier, ("a", 5))
        told["space again"] = [found(tier, ("a", 5)), dict(tier.failures)]
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        store(tier, ("a", 6))
        told["read-only"] = [found(tier, ("a", 5)), found(tier, ("a", 6)), dict(tier.failures), tier._why_not()]
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        store(tier, ("a", 7))
        told["writable again"] = [found(tier, ("a", 7)), dict(tier.failures)]
        tier.close()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
print(json.dumps(told))
