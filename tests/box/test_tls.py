"""What a client meets before any request: protocols, certificates, headers."""

import contextlib
import http.client
import socket
import ssl
import warnings

import pytest
from live_box import LiveBox

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@contextlib.contextmanager
def connected(box: LiveBox, context: ssl.SSLContext, server_name: str | None):
    with (
        socket.create_connection((box.host, 443), 10) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as connection,
    ):
        yield connection


def test_a_client_that_sends_no_server_name_gets_a_certificate_of_the_boxs_authority(box: LiveBox):
    context = box.context()
    context.check_hostname = False
    with connected(box, context, None) as connection:
        names = {value for _, value in connection.getpeercert()["subjectAltName"]}
        assert box.host in names
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {box.host}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", ["localhost", "hostname"])
def test_the_boxs_names_verify(box: LiveBox, name: str):
    name = box.run("hostname") if name == "hostname" else name
    with connected(box, box.context(), name) as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")


def test_a_stranger_to_the_authority_is_warned(box: LiveBox):
    with pytest.raises(ssl.SSLCertVerificationError), connected(box, ssl.create_default_context(), box.host):
        pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused_by_the_box(box: LiveBox, version: ssl.TLSVersion):
    context = box.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # else it is this machine's OpenSSL that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError) as refused, connected(box, context, box.host):
        pass
    assert "ALERT_PROTOCOL_VERSION" in refused.value.reason


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["h3", "http/1.1"], "http/1.1")],
)
def test_http_2_and_http_1_are_spoken_and_nothing_else(box: LiveBox, offered: list[str], chosen: str):
    with connected(box, box.context(*offered), box.host) as connection:
        assert connection.selected_alpn_protocol() == chosen


def test_a_client_of_other_protocols_alone_is_refused(box: LiveBox):
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        connected(box, box.context("h3"), box.host).__enter__()


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/v1/models", 401), ("/nothing", 404)])
def test_every_answer_has_the_security_headers_and_none_names_the_server(box: LiveBox, path: str, status: int):
    got, headers, _ = box.request("GET", path)
    assert got == status
    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    for name in ("server", "via", "x-powered-by", "alt-svc"):
        assert name not in headers


def test_plain_http_is_sent_to_https_and_gets_nothing_else(box: LiveBox):
    connection = http.client.HTTPConnection(box.host, 80, timeout=10)
    connection.request("GET", "/v1/models?x=1", headers={"Authorization": f"Bearer {box.api_key}"})
    answer = connection.getresponse()
    assert answer.status in (301, 308)
    assert answer.headers["location"] == f"https://{box.host}/v1/models?x=1"
    assert answer.read() == b""
    assert "server" not in answer.headers
    connection.close()
