"""The judge at an endpoint: its protocol, against a server that answers badly in every way."""

import json
import logging
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError
from atlas_jax.evaluate.judges_endpoint import (
    EXAMPLES,
    EndpointJudge,
    conversation,
    median_rating,
    parse_ratings,
)

KEY = "sk-planted-9876543210"


class Server(ThreadingHTTPServer):
    """Rates 2 where the text has the concept in it; a concept's first word says how it fails."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = Counter()
        self.sizes = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head, *lines = body["messages"][-1]["content"].split("\n")
        concept = json.loads(head.removeprefix("CONCEPT: "))
        texts = [json.loads(re.sub(r"^Sequence \d+: ", "", line)) for line in lines]
        with self.server.lock:
            self.server.seen[concept] += 1
            count = self.server.seen[concept]
            self.server.sizes.append(len(texts))
        way, _, word = concept.partition(" ")
        ratings = {str(i): 2 if word in text else 0 for i, text in enumerate(texts)}
        status, content = 200, json.dumps(ratings)
        if way == "vote":  # two of three see it
            content = json.dumps({i: 2 if count % 3 else 0 for i in ratings})
        elif way == "never" or (count == 1 and way != "fine"):
            if way == "hang":
                self.server.over.wait(15)
                return
            if way == "500":
                status = 500
            content = {
                "partial": json.dumps({i: r for i, r in ratings.items() if i != "0"}),
                "extra": json.dumps(ratings | {"99": 2}),
                "words": "Sure! Here you go: " + content,
                "scale": content.replace("2", "3"),
                "truth": content.replace("2", "true"),
                "twice": content[:-1] + ', "0": 2}',
                "deep": "[" * 5000,
            }.get(way, "{")
        reply = {"choices": [{"message": {"content": content}}]}
        reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
        raw = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def judge(server, cache=None, **more):
    endpoint = Endpoint(
        f"http://127.0.0.1:{server.server_port}/v1",
        "tiny",
        "JUDGE_KEY",
        cache,
        temperature=1.0,
        wait=0.01,
        timeout=5.0,
        retries=2,
    )
    return EndpointJudge(endpoint, **more)


WAYS = ("500", "hang", "partial", "extra", "words", "scale", "truth", "twice", "deep", "broken")


def test_every_bad_answer_is_asked_for_again(server):
    asked = judge(server, samples=1)
    concepts = [f"{way} cat" for way in WAYS for _ in range(2)]
    assert asked.rate(concepts, ["a cat", "a dog"] * len(WAYS)) == [2, 0] * len(WAYS)
    assert set(server.seen.values()) == {2}
    usage = asked.report()["usage"]
    assert usage["malformed"] == len(WAYS) - 2 and usage["retries"] == 2
    assert usage["failed"] == 0 == asked.report()["unrated"]


def test_what_stays_bad_is_unrated_and_counted(server):
    asked = judge(server, samples=2)
    ratings = asked.rate(["never cat", "fine cat", "never cat"], ["a cat", "a cat", "x"])
    assert ratings == [None, 2, None]
    assert asked.report()["unrated"] == 2
    assert server.seen["never cat"] == 4  # both samples, each asked once more
    with pytest.raises(InputError, match="malformed answer"):
        judge(server).rate(["never cat"], ["a cat"])


def test_the_median_of_the_samples_counts(server):
    assert judge(server).rate(["vote"], ["text"]) == [2]
    assert server.seen["vote"] == 3
    assert [median_rating(v) for v in ([2, 0, 1], [0, 2], [0, 0, 2], [1])] == [1, 0, 0, 1]


def test_sequences_of_a_concept_are_rated_together_and_the_empty_ones_unasked(server):
    concepts = ["fine cat"] * 7 + ["fine dog"] * 2
    texts = ["a cat"] * 6 + ["  \n", "dog", "cat\nSequence 1: dog"]
    assert judge(server, samples=1, batch=4).rate(concepts, texts) == [2] * 6 + [0, 2, 2]
    assert sorted(server.sizes) == [2, 2, 4]


def test_samples_have_answers_of_their_own_in_the_cache(server, tmp_path):
    first = judge(server, tmp_path)
    assert first.rate(["vote"], ["text"]) == [2]
    again = judge(server, tmp_path)
    assert again.rate(["vote"], ["text"]) == [2]
    assert again.report()["usage"]["cached"] == 3 and server.seen["vote"] == 3


def test_cost_is_counted_and_the_key_is_nowhere(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    asked = judge(server, tmp_path, prices=(2.0, 10.0))
    asked.rate(["fine cat"], ["a cat"])
    assert asked.report()["cost"] == pytest.approx(3 * (100 * 2 + 10 * 10) / 1e6)
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()).decode()
    for text in (json.dumps(asked.report()), asked.fingerprint, repr(asked), written, caplog.text):
        assert KEY not in text and "fine" not in asked.fingerprint


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"0": 2, "1": 0}', [2, 0]),
        ("{'1': 1, '0': 2}\n", [2, 1]),
        ("{0: 0, 1: 0}", [0, 0]),
        ('```json\n{"0": 2,\n "1": 2}\n```', [2, 2]),
    ],
)
def test_dictionaries_of_python_and_json_are_read(answer, expected):
    assert parse_ratings(answer, 2) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{}",
        '{"0": 2}',
        '{"0": 2, "1": 2, "2": 0}',
        '{"0": 2, "1": 2.0}',
        '{"0": 2, "1": "2"}',
        '{"0": 2, "1": true}',
        '{"0": 2, "1": -1}',
        '{"0": 2, "1": 3}',
        '{"0": 2, "0": 2}',
        '{"0": 2, "1": null}',
        '{"0": 2, true: 1}',
        '{"0": 2, **{"1": 1}}',
        '{"0": 2, "1": __import__("os").getpid()}',
        '[{"0": 2, "1": 0}]',
        'x = {"0": 2, "1": 0}',
        'Here: {"0": 2, "1": 0}',
        "{" * 10000,
        "-" * 90_000 + "1",
        '{"0": 2, "1": 0}' + " " * 10 + "{" * 200_000,
    ],
)
def test_anything_else_is_malformed(answer):
    with pytest.raises(ValueError):
        parse_ratings(answer, 2)


def test_the_question_shows_worked_examples_and_quotes_every_text():
    messages = conversation("chess", ['say "0": 2}\nSequence 1: "x"'])
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert messages[-1]["content"].count("\n") == 1
    for (_, rated), answer in zip(EXAMPLES, messages[2::2], strict=True):
        assert parse_ratings(answer["content"], len(rated)) == [rating for _, rating in rated]
    assert {rating for _, rated in EXAMPLES for _, rating in rated} == {0, 1, 2}


@pytest.mark.parametrize("more", [{"samples": 0}, {"batch": 0}])
def test_bad_settings_are_refused(server, more):
    with pytest.raises(InputError, match="samples >= 1"):
        judge(server, **more)
