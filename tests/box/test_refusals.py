"""What the box refuses, through Caddy and gateway together, and what of a request never reaches the engine."""

import contextlib
import http.client
import json
import socket

import pytest
from live_box import LiveBox

CHAT = "/v1/chat/completions"
MEBIBYTE = 2**20
HOSTILE = [
    "/metrics", "/tokenize", "/invocations", "/v1/embeddings", "/v1/chat/completions/render", "/docs", "/openapi.json",
    "/v1%2Fmodels", "//v1/models", "/v1//models", "/v1/models/", "/v1/./models", "/v1/../metrics",
    "/v1/models/../../metrics", "/v1/%2e%2e/metrics", "/v1/models/..%2f..%2fmetrics", "/%2e%2e/metrics",
    "/v1/models%00", "/v1/models;x", "/V1/models", "/health/", "/ready/../metrics", "/", "/server-status", "/config/",
]  # fmt: skip


def error_of(body: bytes) -> dict[str, object]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def raw(box: LiveBox, request: bytes) -> bytes:
    """Send exactly these bytes over TLS and read until the box closes."""
    with (
        socket.create_connection((box.host, 443), 10) as plain,
        box.context().wrap_socket(plain, server_hostname=box.host) as connection,
    ):
        connection.settimeout(30)
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize(("key", "code"), [(None, "missing_api_key"), ("infbox-" + "x" * 43, "invalid_api_key")])
def test_a_wrong_key_or_none_is_401(box: LiveBox, key: str | None, code: str):
    for method, path, body in (("GET", "/v1/models", None), ("POST", CHAT, {"model": box.model, "messages": []})):
        status, headers, answer = box.request(method, path, body, key)
        assert (status, error_of(answer)["code"]) == (401, code)
        assert headers["www-authenticate"] == "Bearer"


def test_a_key_may_come_as_x_api_key(box: LiveBox):
    assert box.request("GET", "/v1/models", headers={"X-API-Key": box.api_key})[0] == 200
    assert box.request("GET", "/v1/models", headers={"X-API-Key": box.api_key[:-1]})[0] == 401


def test_health_and_ready_need_no_key(box: LiveBox):
    for path in ("/health", "/ready"):
        assert box.request("GET", path)[0] == 200


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_outside_the_list_is_404_even_with_a_key(box: LiveBox, path: str):
    status, _, answer = box.request("GET", path, key=box.api_key)
    assert status == 404
    assert error_of(answer)["code"] == "not_found"


@pytest.mark.parametrize("target", ["http://engine/metrics", "*", "http://127.0.0.1:80/metrics", "/v1/models\\..\\x"])
def test_odd_request_targets_get_nothing(box: LiveBox, target: str):
    head = f"GET {target} HTTP/1.1\r\nHost: {box.host}\r\nAuthorization: Bearer {box.api_key}\r\n"
    answer = raw(box, f"{head}Connection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1][:1] == b"4"


def test_another_host_name_is_421_and_not_an_empty_success(box: LiveBox):
    status, _, answer = box.request("GET", "/v1/models", key=box.api_key, headers={"Host": "other.example"})
    assert (status, error_of(answer)["code"]) == (421, "wrong_host")


def test_a_request_hidden_in_another_ones_body_is_not_answered(box: LiveBox):
    hidden = f"GET /v1/models HTTP/1.1\r\nHost: {box.host}\r\nAuthorization: Bearer {box.api_key}\r\n\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {box.host}\r\nContent-Length: {len(hidden) + 5}\r\n"
    answer = raw(box, f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n{hidden}".encode())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert box.model.encode() not in answer


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", "/v1/models"), ("POST", "/health")])
def test_a_wrong_method_is_405_and_says_which_is_right(box: LiveBox, method: str, path: str):
    status, headers, answer = box.request(method, path, key=box.api_key)
    assert (status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert headers["allow"] == ("POST" if path == CHAT else "GET")


def test_a_body_over_the_limit_is_413_before_it_is_sent(box: LiveBox):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {box.host}\r\nAuthorization: Bearer {box.api_key}\r\n"
    answer = raw(box, f"{head}Content-Length: {32 * MEBIBYTE + 1}\r\nConnection: close\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer


def test_a_body_over_the_limit_of_unsaid_length_is_413(box: LiveBox):
    connection = http.client.HTTPSConnection(box.host, timeout=60, context=box.context())
    headers = {"Authorization": f"Bearer {box.api_key}", "Content-Type": "application/json"}
    piece = b" " * MEBIBYTE
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer came first
        connection.request("POST", CHAT, (piece for _ in range(33)), headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert error_of(response.read())["code"] == "request_too_large"
    connection.close()


def test_a_large_body_within_the_limit_reaches_the_engine(box: LiveBox):
    prompt = "word " * (MEBIBYTE // 4)
    body = {"model": box.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
    status, _, answer = box.request("POST", CHAT, body, box.api_key)
    assert status == 400
    assert "context length" in error_of(answer)["message"]


def test_a_clients_kv_transfer_params_have_no_effect_on_the_answer(box: LiveBox):
    """Given to the engine itself they replace the prompt, which is what makes the gateway strip them."""
    question = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    question |= {"model": box.model, "max_tokens": 12}
    other = {"model": box.model, "messages": [{"role": "user", "content": "Count: one, two, three,"}]}
    ids = json.loads(box.ask_engine("POST", "/tokenize", other))["tokens"]
    smuggled = {**question, "kv_transfer_params": {"prompt_token_ids": ids}}

    def text(answer: str | bytes) -> tuple[str, int]:
        parsed = json.loads(answer)
        return parsed["choices"][0]["message"]["content"], parsed["usage"]["prompt_tokens"]

    plain = text(box.request("POST", CHAT, question, box.api_key)[2])
    assert text(box.ask_engine("POST", CHAT, smuggled)) != plain
    assert text(box.request("POST", CHAT, smuggled, box.api_key)[2]) == plain


def test_a_tenants_cached_prefix_is_the_tenants_own_whatever_salt_a_client_sends(box: LiveBox):
    other_key = box.run("infbox key remove salt-test >/dev/null 2>&1; infbox key add salt-test")
    try:
        prompt = f"{other_key[7:19]} " + "The quick brown fox jumps over the lazy dog. " * 40

        def hits(key: str, salt: str) -> float:
            before = box.metric("vllm:prefix_cache_hits_total")
            box.chat(prompt, key, max_tokens=1, cache_salt=salt)
            return box.metric("vllm:prefix_cache_hits_total") - before

        assert hits(box.api_key, "mine") == 0
        assert hits(box.api_key, "another") > 0, "a client's cache_salt reached the engine"
        assert hits(other_key, "mine") == 0, "a tenant found another one's cached prefix"
        assert hits(other_key, "default") > 0
    finally:
        box.run("infbox key remove salt-test")
