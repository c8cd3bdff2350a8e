"""What may be in a client's JSON body, and what the engine gets of it."""

import json
from typing import NoReturn, cast

from starlette.datastructures import Headers
from starlette.types import Receive

from infbox.gateway.refusal import Refusal

# What vLLM reads from a request body and a client has no business with: KV and encoder-cache connectors' parameters
# (they can replace the prompt's token ids), vllm_xargs (its entries land beside those connectors' parameters), whose
# cache is used, whose turn it is, and under which id or session the engine files the request.
GATEWAY_FIELDS = (
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "cache_salt",
    "priority",
    "request_id",
    "session_id",
)


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes.

    Raises:
        Refusal: 413, from the declared length where there is one, else as soon as the count passes the limit.
        ClientGoneError: the client went away while sending.
    """
    too_large = Refusal(413, "request_too_large", f"The body is larger than the {limit} bytes allowed here.")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = cast("bytes", message.get("body", b""))
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def parse_object(body: bytes) -> dict[str, object]:
    """The JSON object in `body`.

    Raises:
        Refusal: 400 saying what it is instead.
    """
    try:
        value = cast("object", json.loads(body, parse_constant=_not_json))
    except RecursionError:
        raise _bad_json("The body is nested too deeply.") from None
    except ValueError as fault:  # also: not UTF-8, or an integer of thousands of digits
        reason = (
            f"{fault.msg} at character {fault.pos}" if isinstance(fault, json.JSONDecodeError) else "unusable value"
        )
        raise _bad_json(f"The body is not JSON: {reason}.") from None
    if not isinstance(value, dict):
        raise _bad_json("The body must be a JSON object.")
    return cast("dict[str, object]", value)


def engine_body(request: dict[str, object], tenant: str) -> bytes:
    """What the engine gets: the client's request less the gateway's fields, in the tenant's own prefix cache."""
    kept = {name: value for name, value in request.items() if name not in GATEWAY_FIELDS}
    try:
        # Escaped to ASCII, since JSON can carry lone surrogates that UTF-8 cannot.
        return json.dumps({**kept, "cache_salt": tenant}, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise _bad_json("The body is nested too deeply.") from None
    except ValueError:
        raise _bad_json("The body holds a number that is too large.") from None


def _not_json(_constant: str) -> NoReturn:
    raise ValueError


def _bad_json(message: str) -> Refusal:
    return Refusal(400, "invalid_body", message)
