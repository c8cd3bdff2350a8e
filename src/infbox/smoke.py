"""One real question to the box, the way a client asks it: TLS with verification, a key, a streamed answer.

`run_smoke` makes the checks in the order in which they can fail: TLS, the allow-list, the key, the engine. Each fault
names the unit whose journal to read. Standard library only, so that nothing a client does not have is in the way.
"""

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from infbox.engine_probe import Answer, explanation, first_model
from infbox.errors import NotReadyError

MAX_TOKENS = 32
CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 300.0
RETRY_PAUSE_SECONDS = 1.0
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CADDY = "journalctl -u infbox-caddy -n 50"
GATEWAY = "journalctl -u infbox-gateway -n 50"
VLLM = "journalctl -u infbox-vllm -n 50"


class NotYetError(NotReadyError):
    """A fault that a starting box shows: worth another try."""


@dataclass(frozen=True)
class Target:
    """Where to ask. `server_name` is what the certificate must name and what is sent as SNI and Host."""

    host: str
    port: int
    server_name: str
    ca_file: Path | None
    key: str

    @classmethod
    def parse(cls, url: str, key: str, ca_file: Path | None = None, server_name: str | None = None) -> "Target":
        """Read `https://HOST[:PORT]`.

        Raises:
            NotReadyError: it is no such URL.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme != "https" or not host or parts.path not in ("", "/"):
            raise NotReadyError(
                f"--url is {url!r}, which is not https://HOST[:PORT]", "for example --url https://127.0.0.1"
            )
        return cls(host, port or 443, server_name or host, ca_file, key)


@dataclass(frozen=True)
class SmokeResult:
    """What a working box answered. Times in seconds; tokens_per_second counts from the first text on."""

    model: str
    answer: str
    ttft_seconds: float
    completion_tokens: int
    tokens_per_second: float | None


class _Connection(http.client.HTTPSConnection):
    """HTTPS to one host that verifies, and asks for, the name of another."""

    def __init__(self, target: Target, context: ssl.SSLContext) -> None:
        super().__init__(target.host, target.port, timeout=READ_TIMEOUT_SECONDS, context=context)
        self._target = target
        self._context = context

    def connect(self) -> None:
        plain = socket.create_connection((self._target.host, self._target.port), CONNECT_TIMEOUT_SECONDS)
        plain.settimeout(READ_TIMEOUT_SECONDS)
        self.sock = self._context.wrap_socket(plain, server_hostname=self._target.server_name)


def run_smoke(
    target: Target,
    question: str,
    expect: str | None = None,
    timeout: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SmokeResult:
    """Make all checks, again and again for `timeout` seconds while the box looks as if it were starting.

    Raises:
        NotReadyError: the first check that failed, with the unit to look at.
    """
    context = _context(target.ca_file)
    deadline = clock() + timeout
    while True:
        try:
            return _checks(target, context, question, expect, clock)
        except NotYetError as fault:
            if clock() + RETRY_PAUSE_SECONDS > deadline:
                raise NotReadyError(f"{fault.message} (for {timeout:.0f} s)", fault.hint) from None
        sleep(RETRY_PAUSE_SECONDS)


def _checks(
    target: Target, context: ssl.SSLContext, question: str, expect: str | None, clock: Callable[[], float]
) -> SmokeResult:
    unlisted = _get(target, context, "/metrics", target.key)
    _expect_status(unlisted, 404, "a path that is not listed", GATEWAY)
    _expect_status(_get(target, context, "/v1/models", None), 401, "a request without a key", GATEWAY)
    listing = _get(target, context, "/v1/models", target.key)
    if listing.status == 401:
        raise NotReadyError("the box refused the key in --key-file", "see which keys it has: infbox key list")
    _expect_status(listing, 200, "/v1/models", VLLM)
    try:
        model = first_model(listing)
    except NotReadyError as fault:
        raise NotReadyError(fault.message, VLLM) from None
    result = _ask(target, context, model, question, clock)
    _check_text(result.answer)
    if expect is not None and not re.search(expect, result.answer, re.IGNORECASE):
        raise NotReadyError(f"the answer {result.answer!r} does not match --expect {expect!r}", VLLM)
    return result


def _ask(target: Target, context: ssl.SSLContext, model: str, question: str, clock: Callable[[], float]) -> SmokeResult:
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = clock()
    first = last = None
    texts: list[str] = []
    tokens = 0
    with _exchange(target, context, "POST", "/v1/chat/completions", target.key, body) as response:
        if response.status != 200:
            _expect_status(Answer(response.status, _read(response)), 200, "a chat question", VLLM)
        for event in _events(response):
            if text := _text(event):
                last = clock()
                first = last if first is None else first
                texts.append(text)
            tokens = _tokens(event) or tokens
    if first is None or last is None:
        raise NotReadyError("the box streamed an answer without any text", VLLM)
    speed = (tokens - 1) / (last - first) if tokens > 1 and last > first else None
    return SmokeResult(model, "".join(texts), first - sent, tokens, speed)


def _events(response: http.client.HTTPResponse) -> Iterator[Mapping[str, object]]:
    """The JSON of each event of a stream.

    Raises:
        NotReadyError: the stream held an error, something else than JSON, or no `[DONE]` at its end.
    """
    while line := _read_line(response):
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        event = Answer(200, data).json()
        if not isinstance(event, dict):
            raise NotReadyError(f"the stream held an event that is not JSON: {data[:100]!r}", GATEWAY)
        if "error" in event:
            raise NotReadyError(f"the stream held an error: {explanation(Answer(200, data))}", VLLM)
        yield cast("dict[str, object]", event)
    raise NotReadyError("the stream ended without [DONE]", VLLM)


def _text(event: Mapping[str, object]) -> str:
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    delta = cast("dict[str, dict[str, object]]", choices[0]).get("delta") or {}
    # A model that reasons may spend all of its tokens before it begins the answer proper.
    parts = (delta.get(name) for name in ("reasoning", "reasoning_content", "content"))
    return "".join(part for part in parts if isinstance(part, str))


def _tokens(event: Mapping[str, object]) -> int:
    usage = event.get("usage")
    count = cast("dict[str, object]", usage).get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _check_text(text: str) -> None:
    if not text.strip():
        raise NotReadyError("the answer holds nothing but blanks", VLLM)
    odd = sum(not (char.isprintable() or char.isspace()) or char == REPLACEMENT for char in text)
    if odd * 10 > len(text):
        raise NotReadyError(f"the answer is not text: {text[:80]!r}", VLLM)


def _expect_status(answer: Answer, wanted: int, what: str, hint: str) -> None:
    if answer.status == wanted:
        return
    message = f"{what} was answered {answer.status} instead of {wanted}: {explanation(answer)}".rstrip(": ")
    if answer.status == 502:
        raise NotYetError(message, GATEWAY if answer.json() is None else VLLM)
    if answer.status == 503:
        raise NotYetError(message, GATEWAY if b"keys_unavailable" in answer.body else VLLM)
    raise NotReadyError(message, hint)


def _get(target: Target, context: ssl.SSLContext, path: str, key: str | None) -> Answer:
    with _exchange(target, context, "GET", path, key) as response:
        return Answer(response.status, _read(response))


@contextlib.contextmanager
def _exchange(
    target: Target,
    context: ssl.SSLContext,
    method: str,
    path: str,
    key: str | None,
    body: Mapping[str, object] | None = None,
) -> Generator[http.client.HTTPResponse, None, None]:
    """One request over a connection of its own."""
    port = "" if target.port == 443 else f":{target.port}"
    headers = {"Host": target.server_name + port}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection = _Connection(target, context)
    try:
        with _faults_in_words(target):
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
        yield response
    finally:
        connection.close()


@contextlib.contextmanager
def _faults_in_words(target: Target) -> Generator[None, None, None]:
    where = f"{target.host}:{target.port}"
    try:
        yield
    except ssl.SSLCertVerificationError as fault:
        raise NotReadyError(
            f"the certificate of {where} does not verify for {target.server_name}: {fault.verify_message}",
            f"name its CA with --ca-file, its name with --server-name; else: {CADDY}",
        ) from fault
    except ssl.SSLError as fault:
        # Until an ACME authority has given Caddy its first certificate, there is none to offer.
        raise NotYetError(f"TLS with {where} failed: {fault.reason}", CADDY) from fault
    except ConnectionError as fault:
        raise NotYetError(f"{where} does not answer: {fault.strerror or fault}", CADDY) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise NotReadyError(f"{where} does not answer: {fault}", CADDY) from fault


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException) as fault:
        raise NotReadyError(f"an answer broke off: {fault}", GATEWAY) from fault


def _read_line(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.readline()
    except (OSError, http.client.HTTPException) as fault:
        raise NotReadyError(f"the stream broke off: {fault}", GATEWAY) from fault


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as fault:
        raise NotReadyError(
            f"--ca-file {ca_file} cannot be used: {fault}", "it must be a readable PEM file of CA certificates"
        ) from fault
