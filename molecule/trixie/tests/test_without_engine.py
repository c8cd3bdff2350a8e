"""A box whose engine is not there says so, over TLS, to those who may ask."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("client")


def test_a_right_key_is_told_that_the_engine_is_away(host: Any) -> None:
    command = "curl --silent --cacert /etc/infbox/ca.crt --write-out '\\n%{http_code}' https://localhost/v1/models"
    key = "Authorization: Bearer $(cat /etc/infbox/keys/default.key)"
    body, _, status = host.check_output(f'{command} --header "{key}"').rpartition("\n")
    assert status == "503"
    assert json.loads(body)["error"]["code"] == "engine_unavailable"


def test_the_gateway_is_alive_and_not_ready(host: Any) -> None:
    command = (
        "curl --silent --output /dev/null --cacert /etc/infbox/ca.crt --write-out '%{http_code}' https://localhost"
    )
    assert host.check_output(f"{command}/health") == "200"
    assert host.check_output(f"{command}/ready") == "503"


def test_the_host_is_the_second_release(host: Any) -> None:
    assert host.system_info.codename == "trixie"
    assert host.check_output("/opt/infbox/venv/bin/python -V").startswith("Python 3.13")


def test_its_valkey_has_a_socket_and_a_size_and_no_port(host: Any) -> None:
    client = "valkey-cli -s /run/infbox-redis/redis.sock"
    assert host.check_output(f"{client} ping") == "PONG"
    assert host.check_output(f"{client} config get maxmemory").split() == ["maxmemory", str(256 * 2**20)]
    assert host.check_output(f"{client} config get maxmemory-policy").split()[1] == "allkeys-lru"
    assert not host.socket("tcp://0.0.0.0:6379").is_listening
    assert not host.socket("tcp://127.0.0.1:6379").is_listening
    assert "Permission denied" in host.run(f"runuser -u nobody -- {client} ping").stderr
