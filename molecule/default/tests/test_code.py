"""A clone on the box is in the context of the next request, and so is an edit."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("client")

WORKSPACE = "/srv/workspace"
QUESTION = "What is the launch password of the rocket?"
MAKE = f"""
git init --quiet /tmp/origin && cd /tmp/origin
echo "The launch password of the rocket is pelican." > launch.md && git add .
git -c user.name=t -c user.email=t@example.com commit --quiet --message launch
git clone --quiet /tmp/origin {WORKSPACE}
"""


@pytest.fixture
def clone(host: Any) -> Iterator[None]:
    """A developer's clone in the workspace of the preset."""
    host.check_output(MAKE)
    yield
    host.check_output(f"rm -rf /tmp/origin && find {WORKSPACE} -mindepth 1 -delete")


def answer(host: Any, model: str) -> str:
    """What the box says to the question."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    options = "--fail-with-body --retry 60 --retry-delay 1 --cacert /etc/infbox/ca.crt --json @-"
    key = "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"
    command = f'curl --silent {options} --header "{key}" https://localhost/v1/chat/completions'
    said = host.check_output(f"{command} <<'END'\n{json.dumps(body)}\nEND")
    return json.loads(said)["choices"][0]["message"]["content"]


@pytest.mark.usefixtures("clone")
def test_a_clone_and_an_edit_are_in_the_next_answer(host: Any) -> None:
    assert "pelican" not in answer(host, "SmolLM2-135M-Instruct")
    assert "pelican" in answer(host, "SmolLM2-135M-Instruct:code")
    host.check_output(f"sed -i s/pelican/walrus/ {WORKSPACE}/launch.md")
    assert "walrus" in answer(host, "SmolLM2-135M-Instruct:code")
