"""Rounds of a bad network: a store on S3 whose server loses, delays and refuses requests."""

from __future__ import annotations

import http.client
import os
import random
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kept
import numpy as np
import tensorstore as ts

from atlas_jax.activations import ActivationStore, capture, kvstore, store, token_array, writer
from atlas_jax.errors import InputError
from atlas_jax.translate import fit

FAULTS = ("drop", "drop after", "pause", "stall", "500", "503", "cut")
STALL = 2
"""Seconds without a byte after which a request is given up here."""
RETRIES = {"max_retries": 5, "initial_delay": "10ms", "max_delay": "40ms"}
CONTEXT = ts.Context(kvstore.SETTINGS | {"s3_request_retries": RETRIES})
"""The engine's own, but less patient."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to another server, and does something wrong now and then.

    Attributes:
        share: of the requests that something happens to.
        left: requests until it answers none any more; None: it goes on.
        done: what happened, in order.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.rng = (host, port), random.Random(0)
        self.share, self.left = 0.0, None
        self.done: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fault(self) -> str | None:
        """What happens to the next request."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                return self.rng.choice(["drop", "500", "503"])
        if self.rng.random() >= self.share:
            return None
        # Standing still costs time: seldom.
        return self.rng.choices(FAULTS, [4, 4, 2, 0.3, 4, 4, 4])[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the other side has given up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault()
        if fault:
            self.server.done.append(f"{fault} {self.command}")
        if fault == "drop":
            return self._drop()
        if fault in ("500", "503"):
            return self._answer(int(fault), {}, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "stall":
            time.sleep(STALL + 1)
            return self._drop()
        if fault == "pause":
            time.sleep(self.server.rng.uniform(0.01, 0.2))
        inner = http.client.HTTPConnection(*self.server.target)
        inner.request(self.command, self.path, body, dict(self.headers))
        answer = inner.getresponse()
        content, headers = answer.read(), dict(answer.getheaders())
        inner.close()
        if fault == "drop after":
            return self._drop()
        short = fault == "cut" and len(content) > 1
        self._answer(answer.status, headers, content, len(content) // 2 if short else None)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        size = len(content) or int(headers.get("Content-Length", 0))
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content if sent is None else content[:sent])
        if sent is not None:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Network:
    """A server of S3 in this process and the way to it."""

    def __init__(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        self.proxy = Proxy(host, port)
        url = f"http://127.0.0.1:{self.proxy.server_address[1]}"
        named = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ.update(named | {"AWS_ENDPOINT_URL": url})
        urllib.request.urlopen(urllib.request.Request(f"{url}/faults", method="PUT")).close()
        for module in (kvstore, store, token_array, writer):
            module.CONTEXT = CONTEXT
        self.right = kept.fingerprint(self._work("memory://right"))

    def _work(self, url: str) -> Any:
        """Captures into a store, reads it, and fits from it."""
        capture(kept.TableSource(), kept.TEXTS, out=url, rows_per_part=32, batch_tokens=256)
        found = ActivationStore.open(url)
        first, second = (found[site] for site in found.sites)
        maps: Any = fit(first, second, ("covariance",), batch_rows=32)
        top = first.top_samples(3)
        matrix = maps["covariance"].matrix
        return [np.asarray(first[:]), np.asarray(second[:]), top.values, top.rows, matrix]

    def round(self, seed: int) -> tuple[str, str]:
        """One round: all of it over the bad network, and again over a good one.

        Raises:
            AssertionError: another result, or no clear line.
        """
        rng = random.Random(seed)
        proxy, url = self.proxy, f"s3://faults/{seed}"
        proxy.rng, proxy.done = random.Random(rng.random()), []
        proxy.share = rng.choice([0.02, 0.1, 0.3])
        proxy.left = rng.randrange(80) if rng.random() < 0.4 else None
        what = f"seed {seed}: share {proxy.share}, {proxy.left} left"
        try:
            found = kept.fingerprint(self._work(url))
            how = "the same"
            assert found == self.right, f"{what}: another result after {proxy.done}"
        except InputError as error:
            how, lines = "refused", str(error).splitlines()
            assert len(lines) == 1 and len(lines[0]) < 700, f"{what}: {error}"
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        finally:
            proxy.share, proxy.left = 0.0, None
        found = kept.fingerprint(self._work(url))
        assert found == self.right, f"{what}: another result at last, after {proxy.done}"
        return f"{what}, {len(proxy.done)} faults", how
