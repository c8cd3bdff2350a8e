"""Does an engine generate? Ask it for one token: a healthy-looking server can still die at its first request.

`one_token` holds the questions and judges the answers without doing any input or output itself. `infbox ready` drives
it with blocking sockets (`ask_over`, below), the gateway with its own asynchronous client (`infbox.gateway.readiness`).
Standard library only: the command runs at the start of every engine.
"""

import http.client
import json
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import cast

from infbox.errors import NotReadyError

MODELS_PATH = "/v1/models"
COMPLETIONS_PATH = "/v1/completions"
TRY_LATER = {408, 425, 429}


class RefusedError(NotReadyError):
    """The engine said no, and asking again will not change that."""


@dataclass(frozen=True)
class Ask:
    """A request to the engine; `body` is sent as JSON."""

    method: str
    path: str
    body: dict[str, object] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    def json(self) -> object:
        """The body parsed, or None where it is not JSON."""
        try:
            return cast("object", json.loads(self.body))
        except (ValueError, RecursionError):
            return None


def one_token(model: str | None = None) -> Generator[Ask, Answer, str]:
    """Yield the requests that make an engine generate one token; return the model's name when it did.

    Raises:
        NotReadyError: an answer was not what a working engine gives.
        RefusedError: the request for a token was refused with a 4xx, which waiting does not cure.
    """
    if model is None:
        model = first_model((yield Ask("GET", MODELS_PATH)))
    answer = yield Ask(
        "POST", COMPLETIONS_PATH, {"model": model, "prompt": "One token, please:", "max_tokens": 1, "temperature": 0}
    )
    if 400 <= answer.status < 500 and answer.status not in TRY_LATER:
        raise RefusedError(f"the engine refused to generate a token: {answer.status} {explanation(answer)}")
    if answer.status != 200:
        raise NotReadyError(f"the engine answered a request for one token with {answer.status} {explanation(answer)}")
    if not _generated(answer.json()):
        raise NotReadyError(f"the engine answered 200 without a token: {answer.body[:200]!r}")
    return model


def first_model(answer: Answer) -> str:
    """The first model's name in an answer of /v1/models."""
    if answer.status != 200:
        raise NotReadyError(f"the engine answered {MODELS_PATH} with {answer.status} {explanation(answer)}")
    models = _field(answer.json(), "data")
    name = _field(cast("list[object]", models)[0], "id") if isinstance(models, list) and models else None
    if not isinstance(name, str):
        raise NotReadyError(f"the engine answered {MODELS_PATH} without a model: {answer.body[:200]!r}")
    return name


def explanation(answer: Answer) -> str:
    """What an error answer says for itself, shortened."""
    error = _field(answer.json(), "error")
    message = _field(error, "message")
    return message[:300] if isinstance(message, str) else answer.body[:200].decode(errors="replace").strip()


def _generated(completion: object) -> bool:
    tokens = _field(_field(completion, "usage"), "completion_tokens")
    return isinstance(_field(completion, "choices"), list) and isinstance(tokens, int) and tokens >= 1


def _field(value: object, name: str) -> object:
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket. `timeout` is in seconds and counts for each read, not for the whole exchange."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask_over(socket_path: str, ask: Ask, timeout: float) -> Answer:
    """Send one request to the unix socket and wait for the whole answer.

    Raises:
        NotReadyError: nobody listens, the connection broke, or nothing came for `timeout` seconds.
    """
    connection = UnixConnection(socket_path, timeout)
    body = None if ask.body is None else json.dumps(ask.body)
    try:
        connection.request(ask.method, ask.path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except TimeoutError:
        raise NotReadyError(f"{ask.path} on {socket_path} did not answer within {timeout:.0f} s") from None
    except (OSError, http.client.HTTPException) as fault:
        raise NotReadyError(
            f"{ask.path} on {socket_path} does not answer: {str(fault) or type(fault).__name__}"
        ) from fault
    finally:
        connection.close()


def generate_over(socket_path: str, model: str | None, timeout: float) -> str:
    """Have the engine on the unix socket generate one token; return the model's name."""
    script = one_token(model)
    try:
        ask = next(script)
        while True:
            ask = script.send(ask_over(socket_path, ask, timeout))
    except StopIteration as finished:
        return str(finished.value)
