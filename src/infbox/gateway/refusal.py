"""The gateway's own errors, in the format that OpenAI's clients understand."""

import json
from collections.abc import Mapping

from starlette.types import Send

SERVER_ERROR = "server_error"
CLIENT_ERROR = "invalid_request_error"


def error_json(message: str, code: str, kind: str) -> bytes:
    """An error object as OpenAI's API words it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


class Refusal(Exception):  # noqa: N818 - an answer to a client, not a fault of ours
    """Ends a request with an error answer; raised anywhere before the answer has begun."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    async def answer(self, send: Send) -> None:
        """Send the error to the client."""
        kind = SERVER_ERROR if self.status >= 500 else CLIENT_ERROR
        await send_json(send, self.status, error_json(self.message, self.code, kind), self.headers)


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Send a whole JSON answer."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
