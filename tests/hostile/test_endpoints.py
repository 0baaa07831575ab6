"""An endpoint that answers anything: one line, in bounded time, from no other address."""

from __future__ import annotations

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError

from .mutations import NAMES, cases, misled, refused, spoiled

GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


class Server(ThreadingHTTPServer):
    """Answers as it is told: status, headers and body, or a function that writes to the socket."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.head, self.body = 200, {}, b""
        self.raw = None
        self.paths: list[str] = []

    def handle_error(self, request, client_address):
        pass  # clients that hung up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_POST(self):
        self.server.paths.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.raw:
            self.server.raw(self.wfile.write)
            self.close_connection = True
            return
        self.send_response(self.server.status)
        for name, value in self.server.head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST


@pytest.fixture(scope="module")
def serving():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(serving):
    serving.status, serving.head, serving.body, serving.raw = 200, {}, b"", None
    serving.paths.clear()
    return serving


def asked(server, timeout: float = 20.0, **how) -> tuple[str | None, Endpoint]:
    """What a question to it comes to."""
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    endpoint = Endpoint(url, "m", retries=0, wait=0.0, timeout=timeout, **how)
    return refused(lambda: endpoint.ask([[{"role": "user", "content": "?"}]], str)), endpoint


def test_a_good_answer_is_read(server):
    server.body = json.dumps(GOOD).encode()
    message, endpoint = asked(server)
    assert message is None and endpoint.usage.prompt_tokens == 3


@cases
@given(body=misled(GOOD).map(json.dumps).map(str.encode) | spoiled(json.dumps(GOOD).encode()))
def test_answers_of_any_content(serving, body):
    serving.status, serving.head, serving.body, serving.raw = 200, {}, body, None
    _, endpoint = asked(serving)
    assert endpoint.usage.prompt_tokens >= 0
    assert isinstance(endpoint.usage.cost(1.0, 1.0), float)


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 100_000, b'{"a":' * 50_000, b"\xff" * 99, b"null", b"1" * 9000, b"\0", b"NaN"],
    ids=range(8),
)
def test_bodies_that_are_no_answer(server, body):
    server.body = body
    assert "no chat completion" in str(asked(server)[0])


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 400, 401, 404, 418, 451, 500, 503])
def test_statuses(server, status):
    server.status, server.head = status, {"Location": "file:///etc/passwd"}
    message, _ = asked(server)
    assert message and str(status) in message


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://169.254.169.254/x", "/elsewhere"])
def test_redirections_are_not_followed(server, place):
    server.status, server.head = 307, {"Location": place}
    assert asked(server)[0] and server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    "head",
    [
        {"Content-Type": "text/html"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br, zstd"},
        {"Retry-After": "nan"},
        {"Set-Cookie": "a=b; Domain=com"},
    ],
)
def test_headers(server, head):
    server.head, server.body = head, b"<script>alert(1)</script>"
    message, _ = asked(server)
    assert message


def test_a_body_that_unpacks_to_more(server):
    server.head = {"Content-Encoding": "gzip"}
    server.body = gzip.compress(b"\0" * (1 << 26))
    assert "4 MiB" in str(asked(server)[0])


def _endless(write):
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        write(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")


def _dripping(write):
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        write(b"1\r\na\r\n")
        time.sleep(0.05)


def _header(write):
    write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        write(b"a" * 0x10000)


def _silent(write):
    time.sleep(3)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (_endless, "4 MiB"),
        (_dripping, "no answer within"),
        (_header, ""),
        (_silent, "no answer within"),
        (lambda write: write(b"\0\xff nonsense\r\n\r\n"), ""),
        (lambda write: write(b"HTTP/1.1 999 \x1b[31m\r\n\r\n"), ""),
        (lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{}"), ""),
        (lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"), ""),
        (lambda write: write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), ""),
    ],
    ids=[
        "endless",
        "dripping",
        "header",
        "silent",
        "nonsense",
        "status",
        "short",
        "below",
        "chunk",
    ],
)
def test_streams(server, raw, words):
    server.raw = raw
    began = time.monotonic()
    message, _ = asked(server, timeout=1.0)
    assert message and words in message and time.monotonic() - began < 60


def test_a_damaged_cache_is_asked_again(server, tmp_path):
    server.body = json.dumps(GOOD).encode()
    for content in (None, b"[" * 100_000, b"\xff", b"[]", b'{"answer": 3}', b"{}"):
        for path in tmp_path.rglob("*.json"):
            path.write_bytes(content or b"")
        message, endpoint = asked(server, cache=tmp_path)
        assert message is None and (endpoint.usage.requests == 1 or content == b'{"answer": 3}')


@cases
@given(url=st.sampled_from(NAMES) | st.text() | spoiled(b"http://localhost:80/v1").map(repr))
def test_addresses_of_any_text(url):
    for start in ("", "http://", "http://localhost:", "http://["):
        refused(lambda start=start: Endpoint(start + url, "m"))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://a:99999/v1", "http://[::1", "ftp://a"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="Expected an endpoint"):
        Endpoint(url, "m")
