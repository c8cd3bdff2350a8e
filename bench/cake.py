"""Time to the first token of a prompt that lies on disk: computed, loaded, and from both ends, over the disk's speed.

Runs against a box that keeps KV, as its administrator: `make demo`, then site.yml with what docs/kv.md says, then::

    python bench/cake.py --box .demo/box.json --plot docs/cake.svg

An engine and a daemon of the bench's own run on the box with the box's model and code. The disk is throttled: the
bench's daemon waits before each read for what its bytes would take at the bandwidth of the row; the read itself, from
the page cache, is on top. Before each answer the engine's prefix cache and the daemon's RAM are emptied. Each run is of
a prompt of its own, asked in all three modes, in random order; the first tokens have to be equal.

`ideal` is what both resources would take together without any loss, n / (r_c + r_l), of the medians of computing and
loading in the same rows. Rows where Cake did not split are where it found one of both to be sooner.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from ttft import Box

HERE = Path(__file__).parent
FILES = [HERE / "cake_program.py", *(HERE.parent / "tests" / "box" / f"pair_{name}.py" for name in ("parts", "daemon"))]
FOLDER = "/run/infbox-bench-cake"
MODES = ("compute", "load", "cake")
BANDWIDTHS = [8.0, 20.0, 50.0, 100.0, 0.0]
# Sixteen chunks, and what ends a prompt: what is not a whole chunk is not stored, and computed in any case.
TOKENS = 4112


def measure(box: Box, tokens: int, runs: int, bandwidths: list[float]) -> list[dict[str, Any]]:
    """Each answer's bandwidth in MB/s (0: not throttled), mode, seconds, and whether it was split."""
    box.run(f"rm -rf {FOLDER} && mkdir -p {FOLDER}")
    for file in FILES:
        box.run(f"cat >{FOLDER}/{file.name}", file.read_bytes())
    model = box.run("sed -n 's/^model: //p' /etc/infbox/vllm.yml").strip()
    given = json.dumps({"model": model, "tokens": tokens, "runs": runs, "bandwidths": bandwidths})
    python = "env PYTHONPYCACHEPREFIX=/var/cache/infbox-vllm/python LMCACHE_LOG_LEVEL=ERROR /opt/infbox/vllm/bin/python"
    box.run("systemctl stop infbox-watcher infbox-vllm")  # the cores are the bench's
    try:
        told = box.run(f"{python} {FOLDER}/cake_program.py '{given}'")
    finally:
        box.run(f"rm -rf {FOLDER}; systemctl start --no-block infbox-vllm infbox-watcher")
    return json.loads(told.splitlines()[-1])


def rows(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each bandwidth: medians, spreads, and how cake compares."""
    told: list[dict[str, Any]] = []
    for bandwidth in dict.fromkeys(one["bandwidth"] for one in seen):
        row: dict[str, Any] = {"bandwidth": bandwidth}
        for how in MODES:
            of = [one["seconds"] for one in seen if (one["bandwidth"], one["how"]) == (bandwidth, how)]
            row[how], row[f"{how}_spread"] = statistics.median(of), [min(of), max(of)]
        row["split"] = sum(one["split"] for one in seen if (one["bandwidth"], one["how"]) == (bandwidth, "cake"))
        row["runs"] = sum((one["bandwidth"], one["how"]) == (bandwidth, "cake") for one in seen)
        row["ideal"] = 1 / (1 / row["compute"] + 1 / row["load"])
        row["of_ideal"], row["of_better"] = row["cake"] / row["ideal"], row["cake"] / min(row["compute"], row["load"])
        told.append(row)
    return told


def table(told: list[dict[str, Any]]) -> None:
    modes = "".join(f"{how:>24}" for how in MODES)
    print(f"{'MB/s':>6}{modes}{'ideal':>8}{'split':>8}{'of ideal':>10}{'of better':>10}")
    for row in told:
        print(f"{row['bandwidth'] or 'all':>6}", end="")
        for how in MODES:
            least, most = row[f"{how}_spread"]
            print(f"{row[how]:8.2f} ({least:5.2f} to {most:5.2f})", end="")
        split, of_ideal = f"{row['split']}/{row['runs']}", f"{row['of_ideal']:.2f}" if row["split"] else "-"
        print(f"{row['ideal']:8.2f}{split:>8}{of_ideal:>10}{row['of_better']:10.2f}")


def plot(told: list[dict[str, Any]], tokens: int, path: Path) -> None:
    from matplotlib import pyplot

    throttled = [row for row in told if row["bandwidth"]]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for how, colour in zip(MODES, ("#888888", "#3b75af", "#d1495b"), strict=True):
        middle = [row[how] for row in throttled]
        spread = [[abs(row[how] - row[f"{how}_spread"][end]) for row in throttled] for end in (0, 1)]
        axes.errorbar([row["bandwidth"] for row in throttled], middle, spread, color=colour, label=how, capsize=3)
    axes.plot([row["bandwidth"] for row in throttled], [row["ideal"] for row in throttled], "k:", label="ideal")
    axes.set(xscale="log", yscale="log", xlabel="storage, MB/s (throttled)", ylabel="seconds to the first token")
    axes.set_title(f"{tokens:,} tokens whose KV lies on disk", fontsize=10)
    axes.set_xticks([row["bandwidth"] for row in throttled], [f"{row['bandwidth']:g}" for row in throttled])
    axes.set_yticks(seconds := [1, 2, 5, 10, 20, 50], [str(each) for each in seconds])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first token: computed, loaded, both.")
    parser.add_argument("--box", type=Path, default=Path(".demo/box.json"))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each prompt (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="prompts at each bandwidth (default: %(default)s)")
    parser.add_argument("--bandwidths", type=float, nargs="+", default=BANDWIDTHS, help="MB/s; 0: not throttled")
    parser.add_argument("--json", type=Path, help="write what was seen there, too")
    parser.add_argument("--plot", type=Path, help="draw it there; needs `pip install --group bench`")
    options = parser.parse_args()
    seen = measure(Box(options.box), options.tokens, options.runs, options.bandwidths)
    if options.json:
        options.json.write_text(json.dumps(seen, indent=2) + "\n")
    told = rows(seen)
    table(told)
    if options.plot:
        plot(told, options.tokens, options.plot)


if __name__ == "__main__":
    main()
