"""A workspace that a developer makes on the box, and when it is warm."""

import json
from typing import Any

from live_box import LiveBox, until

WORKSPACE = "/srv/workspace"
# A program of some 170 tokens a file, and in its newest file what nobody can know without having read it.
MAKE = f"""
set -eu
rm -rf /tmp/origin && find {WORKSPACE} -mindepth 1 -delete
mkdir /tmp/origin && cd /tmp/origin
git init --quiet --initial-branch main .
git config user.name tester && git config user.email tester@example.com
for n in $(seq FILES); do
  printf 'def blend_%d(fruit: str, sugar: float) -> float:\\n    # Blend number %d.\\n' $n $n > blend_$n.py
  for m in $(seq 6); do printf '    value_%d = len(fruit) * %d + sugar / %d\\n' $m $((n * m)) $m; done >> blend_$n.py
  printf '    return value_1\\n' >> blend_$n.py
done
git add . && git commit --quiet --message blends
printf 'The captain of the ship is called Walrus.\\n' > ship.md
git add . && git commit --quiet --message ship
git clone --quiet /tmp/origin {WORKSPACE}
rm -rf /tmp/origin
"""


def make(box: LiveBox, files: int) -> None:
    """Clone a program of so many files into the workspace."""
    box.run(MAKE.replace("FILES", str(files)))


def status(box: LiveBox) -> dict[str, Any]:
    """What the watcher says of the workspace."""
    (workspace,) = json.loads(box.run("infbox index status --json"))["workspaces"]
    return workspace


def wait_until_warm(box: LiveBox, seconds: float = 240) -> dict[str, Any]:
    """Wait until the gateway has warmed what the watcher shows now."""

    def warm() -> bool:
        now = status(box)
        return now["state"] == "ready" and now["is_warm"]

    until(warm, seconds, "the workspace is warm")
    return status(box)
