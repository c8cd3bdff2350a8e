"""The engine of a box, and that it answers."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture
def engine(host: Any) -> Any:
    """The engine's unit; its journal is shown when it is down."""
    unit = host.service("infbox-vllm")
    if not unit.is_running:
        print(host.run("journalctl --no-pager --lines=60 --unit infbox-vllm").stdout)
    return unit


def test_the_engine_is_enabled_and_runs_as_its_own_user(engine: Any) -> None:
    assert engine.is_enabled
    assert engine.is_running
    assert engine.systemd_properties["User"] == "infbox-vllm"
    assert engine.systemd_properties["PrivateNetwork"] == "yes"


def test_the_engine_listens_for_its_group_alone(host: Any) -> None:
    folder = host.file("/run/infbox-vllm")
    assert (folder.user, folder.group, folder.mode) == ("infbox-vllm", "infbox-vllm", 0o750)
    assert host.file("/run/infbox-vllm/vllm.sock").is_socket
    assert host.run("runuser -u nobody -- ls /run/infbox-vllm").rc != 0


def test_the_engines_settings_are_for_its_group(host: Any) -> None:
    file = host.file("/etc/infbox/vllm.yml")
    assert (file.user, file.group, file.mode) == ("root", "infbox-vllm", 0o640)


def test_the_box_is_ready_and_lists_its_model(host: Any) -> None:
    command = "curl --silent --cacert /etc/infbox/ca.crt"
    assert (
        host.check_output(f"{command} --output /dev/null --write-out '%{{http_code}}' https://localhost/ready") == "200"
    )
    key = "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"
    said = json.loads(host.check_output(f'{command} --header "{key}" https://localhost/v1/models'))
    assert [model["id"] for model in said["data"]] == ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct:code"]


def test_the_box_answers_a_question(host: Any) -> None:
    body = json.dumps({
        "model": "SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 32,
    })  # fmt: skip
    key = "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"
    command = "curl --silent --cacert /etc/infbox/ca.crt --header 'Content-Type: application/json'"
    said = host.check_output(f"{command} --header \"{key}\" --data '{body}' https://localhost/v1/chat/completions")
    assert "Paris" in json.loads(said)["choices"][0]["message"]["content"]
