"""How long things take, from bandwidths and arithmetic alone: estimates to compare machines by, not promises."""

from infbox.planner.checks import budget
from infbox.planner.setup import Setup
from infbox.planner.sizes import active_parameters, kv_bytes_a_token, weight_bytes

# Share of the dense 16-bit peak that prefill is taken to reach; an assumption, not measured here.
EFFICIENCY = 0.5
# Between RAM and one GPU, in 10^9 bytes a second: what PCIe 4 x16 gives in practice.
RAM_GB_S = 20.0
# Disks, in 10^9 bytes a second: an EBS gp3 volume as it comes, the fastest gp3, and an NVMe disk of an instance.
DISKS_GB_S = {"gp3": 0.125, "gp3 at its fastest": 1.0, "NVMe": 3.0}
# Of the RAM, what a KV tier may take: the rest is for the page cache, the engine and everything else.
RAM_TIER_SHARE = 0.5
# Of the disk, what a KV tier may take beside the model's files.
DISK_TIER_SHARE = 0.9


def prefill_seconds(setup: Setup, tokens: int) -> float | None:
    """Seconds to read `tokens` without a cache; None on the CPU, whose speed is not in the catalogue.

    Each token costs two operations a weight, and in each layer four for each pair of positions, heads and head size,
    of which the causal mask leaves half (Kaplan et al., arXiv 2001.08361, section 2.1, with the mask).
    """
    if setup.gpus is None:
        return None
    model = setup.architecture
    seen = min(tokens, 2 * model.window) if model.window else tokens
    pairs = model.full_layers * tokens * tokens + model.sliding_layers * tokens * seen
    operations = 2.0 * active_parameters(model) * tokens + 2.0 * pairs * model.heads * model.head_dim
    together = setup.parallel.tensor * setup.parallel.pipeline
    return operations / (setup.gpus.gpu.bf16_tflops * 1e12 * EFFICIENCY * together)


def file_bytes(setup: Setup) -> int:
    """Bytes that are read to load the model."""
    return setup.model.weight_files_bytes or weight_bytes(setup.architecture, as_file=True)


def load_seconds(setup: Setup) -> dict[str, float]:
    """Seconds from disk to GPU, for each kind of disk."""
    return {name: file_bytes(setup) / speed / 1e9 for name, speed in DISKS_GB_S.items()}


def kv_load_seconds(setup: Setup, tokens: int) -> dict[str, float]:
    """Seconds to load the KV cache of `tokens` instead of computing it: from RAM, which each GPU does for its part."""
    size = tokens * kv_bytes_a_token(setup.architecture, setup.kv_bytes)
    together = setup.parallel.tensor * setup.parallel.pipeline if setup.gpus else 1
    return {"RAM": size / RAM_GB_S / 1e9 / together} | {name: size / speed / 1e9 for name, speed in DISKS_GB_S.items()}


def tier_tokens(setup: Setup) -> dict[str, int]:
    """Tokens of KV that are kept in RAM and on disk; where none are, those of half the RAM and of the disk's rest."""
    a_token = kv_bytes_a_token(setup.architecture, setup.kv_bytes)
    ram = setup.ram_gib * 2**30 * RAM_TIER_SHARE
    if setup.gpus is None:
        ram = max(0.0, min(ram, setup.ram_gib * 2**30 - budget(setup).share))
    disk = max(0.0, setup.disk_gib * 2**30 * DISK_TIER_SHARE - file_bytes(setup))
    ram, disk = setup.kept_ram_gib * 2**30 or ram, setup.kept_disk_gib * 2**30 or disk
    return {"RAM": int(ram / a_token), "disk": int(disk / a_token)}
