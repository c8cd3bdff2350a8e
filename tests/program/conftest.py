from collections.abc import Callable
from typing import Any

import pytest
from stack_program import Declared, run_program

runs: dict[tuple[str, str], Declared] = {}


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Declared]:
    """Run the program: deploy("dev32", purchase="spot"). A run is kept, but of `mine`, a test's own preset."""

    def run(stack: str = "dev32", **settings: Any) -> Declared:
        key = (stack, repr(sorted(settings.items())))
        if stack == "mine" or key not in runs:
            runs[key] = run_program(monkeypatch, stack, **settings)
        return runs[key]

    return run
