"""`infbox smoke` against a real TLS server that is right, and then wrong in one thing at a time."""

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certificates import make_authority, make_certificate
from infbox.cli import main

KEY = "infbox-test"
NAME = "box.internal"
TEXT = ["The capital", " of France is", " Paris."]


class Server:
    """A box as `infbox smoke` sees one; tests change what it does."""

    def __init__(self) -> None:
        self.models: list[str] = ["scripted-model"]
        self.texts = TEXT
        self.ending = b"data: [DONE]\n\n"
        self.cut = False
        self.statuses: dict[str, int] = {}
        self.busy = 0
        self.without_certificate = 0
        self.open_to_all = False
        self.names: set[str] = set()
        self.hosts: set[str] = set()
        self.asked: dict[str, object] = {}

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.hosts.add(handler.headers["Host"])
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length", 0))) or b"{}")
        status = self._status(handler)
        if status != 200:
            code = {503: "engine_unavailable"}.get(status, "refused")
            data = b"" if status == 502 else json.dumps({"error": {"message": "because", "code": code}}).encode()
            self._head(handler, status, len(data))
            handler.wfile.write(data)
        elif handler.path == "/v1/models":
            data = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
            self._head(handler, 200, len(data))
            handler.wfile.write(data)
        else:
            self.asked = body
            self._head(handler, 200, None)
            for text in self.texts:
                self._chunk(handler, {"choices": [{"delta": {"content": text}}]})
            self._chunk(handler, {"choices": [], "usage": {"completion_tokens": 7}})
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(self.ending), self.ending) if self.ending else b"")
            handler.wfile.write(b"" if self.cut else b"0\r\n\r\n")
            handler.close_connection = True

    def _status(self, handler: BaseHTTPRequestHandler) -> int:
        if self.busy:
            self.busy -= 1
            return 503
        if handler.path in self.statuses:
            return self.statuses[handler.path]
        if handler.path not in ("/v1/models", "/v1/chat/completions"):
            return 404
        return 200 if self.open_to_all or handler.headers["Authorization"] == f"Bearer {KEY}" else 401

    def handshake(self, _socket: object, name: str, _context: object) -> int | None:
        """What Caddy does with a name that its authority has given no certificate for yet."""
        self.names.add(name)
        if self.without_certificate:
            self.without_certificate -= 1
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    @staticmethod
    def _head(handler: BaseHTTPRequestHandler, status: int, length: int | None) -> None:
        handler.send_response(status)
        chunked = length is None
        handler.send_header("Transfer-Encoding" if chunked else "Content-Length", "chunked" if chunked else str(length))
        handler.end_headers()

    @staticmethod
    def _chunk(handler: BaseHTTPRequestHandler, value: object) -> None:
        data = b"data: " + json.dumps(value).encode() + b"\n\n"
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


@pytest.fixture(scope="module")
def ca(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    authority = make_authority(folder)
    make_certificate(folder, authority, NAME)
    return folder


@contextlib.contextmanager
def serving(ca: Path, server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.answer(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca / "server.pem", ca / "server.key")
    context.sni_callback = server.handshake
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    listener.handle_error = lambda *_: None
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield f"https://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(f"{KEY}\n")
    return tmp_path / "key"


@pytest.fixture
def smoke(ca: Path, key_file: Path, capsys):
    """Run `infbox smoke` against a server; returns the status and what it printed."""

    def run(server: Server, *more: str, seconds: str = "0") -> tuple[int, str, str]:
        with serving(ca, server) as url:
            command = ["smoke", "--url", url, "--key-file", str(key_file), "--timeout", seconds]
            names = [] if "--server-name" in more else ["--server-name", NAME]
            authority = [] if "--ca-file" in more else ["--ca-file", str(ca / "ca.pem")]
            status = main([*command, *names, *authority, *more])
        return status, *capsys.readouterr()

    return run


def test_a_working_box_gets_one_line(smoke):
    server = Server()
    status, out, err = smoke(server, "--expect", "paris")
    assert (status, err) == (0, "")
    assert out.startswith("scripted-model: The capital of France is Paris. (TTFT 0.")
    assert out.count("\n") == 1
    assert (server.asked["temperature"], server.asked["stream"]) == (0, True)
    assert server.names == {NAME}
    assert {host.split(":")[0] for host in server.hosts} == {NAME}


def test_json_has_the_same_in_fields(smoke):
    status, out, _ = smoke(Server(), "--json")
    result = json.loads(out)
    assert status == 0
    assert (result["model"], result["answer"]) == ("scripted-model", "".join(TEXT))
    assert (result["completion_tokens"], result["ttft_seconds"] > 0) == (7, True)


def wrong(**changes: object) -> Server:
    server = Server()
    for name, value in changes.items():
        setattr(server, name, value)
    return server


@pytest.mark.parametrize(
    ("server", "said", "unit"),
    [
        (wrong(texts=[]), "without any text", "vllm"),
        (wrong(texts=["  ", "\n"]), "nothing but blanks", "vllm"),
        (wrong(texts=["\ufffd\ufffd\ufffd a"]), "not text", "vllm"),
        (wrong(texts=["\x01\x02\x03"]), "not text", "vllm"),
        (wrong(ending=b""), "ended without [DONE]", "vllm"),
        (wrong(ending=b"", cut=True), "ended without [DONE]", "vllm"),
        (wrong(ending=b'data: {"error": {"message": "EngineDead"}}\n\n'), "an error: EngineDead", "vllm"),
        (wrong(ending=b"data: {half\n\n"), "not JSON", "gateway"),
        (wrong(models=[]), "without a model", "vllm"),
        (wrong(open_to_all=True), "a request without a key was answered 200 instead of 401", "gateway"),
        (wrong(statuses={"/metrics": 200}), "not listed was answered 200 instead of 404", "gateway"),
        (wrong(statuses={"/v1/chat/completions": 500}), "a chat question was answered 500", "vllm"),
        (wrong(statuses={"/v1/chat/completions": 503}), "a chat question was answered 503", "vllm"),
        (wrong(statuses={"/metrics": 502}), "was answered 502", "gateway"),
        (wrong(texts=["London"]), "does not match --expect", "vllm"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_with_the_unit_to_look_at(smoke, server: Server, said: str, unit: str):
    status, out, err = smoke(server, "--expect", "paris")
    assert (status, out) == (1, "")
    assert said in err
    assert f"hint: journalctl -u infbox-{unit} -n 50" in err


def test_a_refused_key_points_to_the_keys(smoke, key_file: Path):
    key_file.write_text("infbox-other")
    status, _, err = smoke(Server())
    assert (status, "refused the key" in err, "infbox key list" in err) == (1, True, True)


def test_a_starting_box_is_asked_again(smoke):
    status, out, _ = smoke(wrong(busy=1), seconds="30")
    assert (status, "Paris" in out) == (0, True)


def test_a_box_whose_first_certificate_is_on_its_way_is_asked_again(smoke):
    status, out, _ = smoke(wrong(without_certificate=2), seconds="30")
    assert (status, "Paris" in out) == (0, True)


def test_a_certificate_of_another_name_or_authority_is_refused(smoke, ca: Path, tmp_path: Path):
    for name in ("other.internal", "127.0.0.1"):
        status, _, err = smoke(Server(), "--server-name", name)
        assert status == 1
        assert f"does not verify for {name}" in err
        assert "infbox-caddy" in err
    make_authority(tmp_path)
    status, _, err = smoke(Server(), "--ca-file", str(tmp_path / "ca.pem"))
    assert (status, "does not verify" in err) == (1, True)


def test_wrong_usage_is_said_before_anything_is_asked(tmp_path: Path, key_file: Path, capsys):
    for arguments, said in (
        (["--url", "http://127.0.0.1", "--key-file", str(key_file)], "is not https://HOST"),
        (["--url", "https://[", "--key-file", str(key_file)], "is not https://HOST"),
        (["--url", "https://127.0.0.1", "--key-file", str(tmp_path / "none")], "infbox key ensure"),
        (["--url", "https://127.0.0.1", "--key-file", str(key_file), "--expect", "("], "not a regex"),
        (["--url", "https://127.0.0.1", "--key-file", str(key_file), "--ca-file", "/none"], "--ca-file /none"),
    ):
        assert main(["smoke", *arguments]) == 1
        assert said in capsys.readouterr().err


def test_nobody_listening_points_to_caddy(key_file: Path, capsys):
    assert main(["smoke", "--url", "https://127.0.0.1:1", "--key-file", str(key_file), "--timeout", "0"]) == 1
    err = capsys.readouterr().err
    assert "127.0.0.1:1 does not answer: Connection refused" in err
    assert "hint: journalctl -u infbox-caddy -n 50" in err
