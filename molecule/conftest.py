"""What the tests of several scenarios need."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def client(host: Any) -> None:
    """Have curl on the host; the box itself needs none."""
    host.check_output("command -v curl || apt-get -qq install --no-install-recommends curl")
