"""A streamed answer seen from the wire, over HTTP/1.1 and HTTP/2: what matters is how it ended.

HTTP/1.1 is the standard library's, which tells a missing terminating chunk. HTTP/2 is spoken frame by frame, since
clients hide whether a stream ended with END_STREAM, a reset or a closed connection.
"""

import contextlib
import http.client
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

from live_box import LiveBox

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
LONG = {"max_tokens": 4000, "ignore_eos": True}
VERSIONS = ("http/1.1", "h2")


class Stream:
    """A chat stream under way in a thread of its own.

    data: what came. ending: "" while it runs, then "clean" or what the transport said.
    """

    def __init__(self, box: LiveBox, version: str, prompt: str, **body: object) -> None:
        self.box, self.version = box, version
        self.data, self.ending, self.status = b"", "", 0
        messages = [{"role": "user", "content": prompt}]
        self._body = json.dumps(
            {"model": box.model, "messages": messages, "temperature": 0, "stream": True, **body}
        ).encode()
        self._leaving = False
        self._socket: ssl.SSLSocket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it says that it is complete."""
        return b"\ndata: [DONE]" in self.data

    @property
    def failed(self) -> bool:
        """Whether it holds an error event."""
        return b'data: {"error"' in self.data

    @property
    def text(self) -> str:
        """What the model wrote."""
        lines = [line[6:] for line in self.data.split(b"\n") if line.startswith(b"data: {")]
        pieces = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line of a cut stream
                for choice in json.loads(line).get("choices", []):
                    pieces.append(choice.get("delta", {}).get("content") or "")
        return "".join(pieces)

    def wait_for_begin(self, seconds: float = 120) -> "Stream":
        """Until its first event is there; it may have ended as well."""
        self._wait(lambda: b"\n\n" in self.data, seconds)
        return self

    def wait_for_text(self, seconds: float = 120) -> "Stream":
        """Until it runs well."""
        self._wait(lambda: self.data.count(b"\n\n") >= 5, seconds)
        assert not self.ending, f"the stream ended early: {self}"
        return self

    def wait_for_end(self, seconds: float = 120) -> "Stream":
        self._wait(lambda: bool(self.ending), seconds)
        return self

    def leave(self) -> None:
        """Close the connection, as a client that was killed does."""
        self._leaving = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def __repr__(self) -> str:
        return f"{self.version} {self.status} ended {self.ending!r} after …{self.data[-300:]!r}"

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and not self.ending:
            assert time.monotonic() < end, f"nothing new within {seconds:.0f} s: {self}"
            time.sleep(0.02)

    def _run(self) -> None:
        try:
            plain = socket.create_connection((self.box.host, 443), 10)
            plain.settimeout(170)
            self._socket = self.box.context(self.version).wrap_socket(plain, server_hostname=self.box.host)
            (self._over_http2 if self.version == "h2" else self._over_http1)(self._socket)
        except (OSError, http.client.HTTPException) as fault:
            self.ending = f"{type(fault).__name__}: {fault}"
        finally:
            if self._socket is not None:
                self._socket.close()

    def _over_http1(self, connection: ssl.SSLSocket) -> None:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.box.host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.box.api_key}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + self._body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        self.status = response.status
        while piece := response.read1(65536):  # raises IncompleteRead without a terminating chunk
            self.data += piece
        self.ending = "clean"

    def _over_http2(self, connection: ssl.SSLSocket) -> None:
        assert connection.selected_alpn_protocol() == "h2"
        fields = [
            (":method", "POST"), (":scheme", "https"), (":authority", self.box.host),
            (":path", "/v1/chat/completions"), ("content-type", "application/json"),
            ("authorization", f"Bearer {self.box.api_key}"), ("content-length", str(len(self._body))),
        ]  # fmt: skip
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30))
            + _frame(HEADERS, END_HEADERS, 1, b"".join(_field(name, value) for name, value in fields))
            + b"".join(_frame(DATA, 0, 1, self._body[at : at + 16384]) for at in range(0, len(self._body), 16384))
            + _frame(DATA, END_STREAM, 1, b"")
        )
        source = connection.makefile("rb")
        while head := source.read(9):
            if len(head) < 9:
                break
            kind, flags = head[3], head[4]
            payload = source.read(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(_frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                connection.sendall(_frame(PING, ACK, 0, payload))
            elif kind == HEADERS and not self.status:
                self.status = 200 if payload.startswith(b"\x88") else -1  # the one status with an index of its own
            elif kind == DATA:
                self.data += payload
            if kind == RST_STREAM:
                self.ending = f"RST_STREAM {int.from_bytes(payload, 'big')}"
                return
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.ending = "clean"
                return
        self.ending = "connection closed"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    """A header as RFC 7541 section 6.2.2 writes one that is not to be indexed."""
    return b"\0" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    size, rest = (bytes([len(text)]), 0) if len(text) < 127 else (b"\x7f", len(text) - 127)
    while size[0] == 127 and rest >= 128:
        size += bytes([rest % 128 + 128])
        rest //= 128
    return size + (bytes([rest]) if size[0] == 127 else b"") + text.encode()
