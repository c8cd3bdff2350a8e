"""Of which engine and daemon Cake knows the insides. `python -m infbox.cake.versions` says whether these are they."""

import importlib.metadata
import sys

# Cake was tested with these and no others; what it leans on has no promise of either project.
TESTED = {"vllm": "0.32.0", "lmcache": "0.5.6"}


def why_not() -> str:
    """Why Cake is to be left alone here; empty if it is not."""
    for name, tested in TESTED.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"there is no {name}"
        # The part after + tells builds of one version apart: cpu, cu129.
        if found.partition("+")[0] != tested:
            return f"{name} is {found}, and it was tested with {tested} alone"
    return ""


if __name__ == "__main__":
    if told := why_not():
        sys.exit(f"vllm_cake_mode: Cake is off, and KV is loaded or computed as ever: {told}")
