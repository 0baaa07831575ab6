"""The endpoint's client against a local server that misbehaves in every way that servers do."""

import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError

KEY = "sk-very-secret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers `echo: <question>`; a question's first words say how it misbehaves, and how often."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: Counter[str] = Counter()
        self.keys: list[str | None] = []
        self.busy = self.most = 0
        self.over = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        pass  # clients that hung up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def reply(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen[question] += 1
            count = self.server.seen[question]
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
        try:
            self.answer(question, count)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def answer(self, question, count):
        way, _, times = question.partition(" ")
        good = {
            "choices": [{"message": {"role": "assistant", "content": f"echo: {question}"}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
        if count <= int(times.split()[0] if times[:1].isdigit() else 0):
            if way == "500":
                return self.reply(500, b"oh no")
            if way == "429":
                return self.reply(429, b"slow down", [("Retry-After", "0.05")])
            if way == "401":
                key = self.headers.get("Authorization", "")
                return self.reply(401, f"the key\n{key} is not known".encode())
            if way == "garbage":
                return self.reply(200, b"<html>\xff\xfe not json</html>")
            if way == "partial":
                return self.reply(200, json.dumps({"choices": []}).encode())
            if way == "null":
                return self.reply(200, b'{"choices": [{"message": {"content": null}}]}')
            if way == "huge":
                return self.reply(200, b" " * (5 << 20))
            if way == "hang":
                self.server.over.wait()
                return None
            if way == "drop":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices"')
                return None
            if way == "drip":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                while not self.server.over.wait(0.1):  # a byte now and then, for ever
                    self.wfile.write(b" ")
                    self.wfile.flush()
                return None
            if way == "odd":
                good["choices"][0]["message"]["content"] = "?"
        if way == "crowd":
            time.sleep(0.05)
        if way == "usage":
            good["usage"] = "none"
        return self.reply(200, json.dumps(good).encode())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def endpoint(server, **more):
    settings = {"key": "TEST_KEY", "wait": 0.01, "timeout": 2.0, "retries": 3} | more
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "tiny", **settings)


def asks(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def strict(text):
    if not text.startswith("echo: "):
        raise ValueError("no echo")
    return text.removeprefix("echo: ")


WAYS = ("500", "429", "garbage", "partial", "null", "huge", "hang", "drop", "drip", "odd")


def test_every_misbehaviour_is_overcome(server):
    client = endpoint(server)
    questions = [f"{way} 1" for way in WAYS]
    assert client.ask(asks(*questions), strict) == questions
    # An odd answer is asked for anew, not retried.
    assert client.usage.requests == client.usage.retries + len(WAYS) + 1 >= 2 * len(WAYS)
    assert client.usage.malformed == 4 and client.usage.failed == 0
    assert client.usage.prompt_tokens == 7 * (len(WAYS) + 1)
    assert client.usage.cost(1.0, 2.0) == pytest.approx((len(WAYS) + 1) * 13 / 1e6)


def test_what_stays_broken_costs_its_own_answer_only(server):
    client = endpoint(server, retries=2)
    got = client.ask(asks("fine", "500 99", "odd 99", "usage"), strict)
    assert got == ["fine", None, None, "usage"]
    assert server.seen["500 99"] == 3 and server.seen["odd 99"] == 2
    assert client.usage.failed == 2


def test_nothing_at_all_is_one_line(server):
    with pytest.raises(InputError, match="none to 2 questions.*status 500 oh no") as caught:
        endpoint(server, retries=1).ask(asks("500 9 a", "500 9 b"), strict)
    assert "\n" not in str(caught.value)
    gone = Endpoint("http://127.0.0.1:9/v1", "tiny", retries=0)
    with pytest.raises(InputError, match="Is the endpoint up"):
        gone.ask(asks("a"), strict)


def test_refusals_end_at_once_and_hide_the_key(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    client = endpoint(server, cache=tmp_path)
    with pytest.raises(InputError, match="status 401.*TEST_KEY") as caught:
        client.ask(asks("401 9", *[f"crowd 0 {i}" for i in range(20)]), strict)
    assert server.seen["401 9"] == 1
    assert "\n" not in str(caught.value) and "***" in str(caught.value)
    client.ask(asks("fine"), strict)
    assert server.keys[-1] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    for text in (str(caught.value), repr(client), written.decode(), caplog.text):
        assert KEY not in text


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    assert endpoint(server).ask(asks("fine"), strict) == ["fine"]
    assert server.keys == [None]


def test_answers_are_kept_on_disk(server, tmp_path):
    questions = [f"q 0 {i}" for i in range(5)]
    endpoint(server, cache=tmp_path).ask(asks(*questions), strict)
    again = endpoint(server, cache=tmp_path)
    assert again.ask(asks(*questions, "new"), strict) == [*questions, "new"]
    assert again.usage.cached == 5 and again.usage.requests == 1
    other = endpoint(server, cache=tmp_path, temperature=0.5)
    other.ask(asks(questions[0]), strict)
    assert other.usage.cached == 0
    assert all(count <= 2 for count in server.seen.values())


def test_each_draw_has_an_answer_of_its_own(server, tmp_path):
    questions, draws = asks("a", "a", "a"), [0, 1, 2]
    endpoint(server, cache=tmp_path).ask(questions, strict, draws=draws)
    assert server.seen["a"] == 3 == len(list(tmp_path.rglob("*.json")))
    again = endpoint(server, cache=tmp_path)
    again.ask(asks("a"), strict)  # the first draw is the one that a plain question has
    again.ask(questions, [strict, len, strict], draws=draws)
    assert again.usage.cached == 4 and server.seen["a"] == 3
    with pytest.raises(InputError, match="as many parsers and draws"):
        again.ask(questions, [strict], draws=draws)


def test_damaged_and_useless_cache_files_are_asked_for_again(server, tmp_path):
    endpoint(server, cache=tmp_path).ask(asks("a", "b"), strict)
    first, second = sorted(tmp_path.rglob("*.json"))
    first.write_bytes(b"\xff{")
    second.write_text('{"answer": "?"}')
    again = endpoint(server, cache=tmp_path)
    assert again.ask(asks("a", "b"), strict) == ["a", "b"]
    assert again.usage.requests == 2


def test_requests_run_together_but_not_all(server):
    client = endpoint(server, concurrency=4, timeout=10)
    questions = [f"crowd 0 {i}" for i in range(12)]
    assert client.ask(asks(*questions), strict) == questions
    assert 2 <= server.most <= 4


def test_works_where_an_event_loop_runs(server):
    import asyncio

    async def notebook():
        return endpoint(server).ask(asks("fine"), strict)

    assert asyncio.run(notebook()) == ["fine"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "localhost:8000"}, "an endpoint like"),
        ({"url": "http://me:pass@host/v1"}, "no credentials"),
        ({"url": "https://host/v1?key=abc"}, "no credentials"),
        ({"model": " "}, "name of a model"),
        ({"concurrency": 0}, "concurrency >= 1"),
    ],
)
def test_bad_settings_are_one_line(fields, message):
    with pytest.raises(InputError, match=message) as caught:
        Endpoint(**({"url": "http://host/v1", "model": "m"} | fields))
    assert "\n" not in str(caught.value) and "pass" not in str(caught.value)


def test_the_address_may_name_the_method():
    assert Endpoint("http://host/v1/chat/completions/", "m").url == "http://host/v1"
