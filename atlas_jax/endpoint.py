"""A client of OpenAI-compatible endpoints: concurrent, retried, cached on disk and counted.

The key comes from the environment; it is written nowhere, neither into the cache nor into messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from atlas_jax.errors import InputError
from atlas_jax.files import write_json
from atlas_jax.outside import parse_json, read_json
from atlas_jax.progress import Bar

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]

_RETRIED = {408, 409, 425, 429, *range(500, 600)}
_LARGEST_BODY = 1 << 22
_LONGEST_WAIT = 60.0
_MOST_TOKENS = 1 << 32
_ADDRESS = re.compile(r"[!-~]+")


@dataclass
class Usage:
    """What an endpoint was asked, and what it charged.

    Attributes:
        requests: sent, retries included.
        retries: of those, after a failure.
        cached: answers that came from the disk.
        malformed: answers that were no use.
        failed: questions that got no answer in the end.
        prompt_tokens: as the endpoint counted them.
        completion_tokens: likewise.
    """

    requests: int = 0
    retries: int = 0
    cached: int = 0
    malformed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """In the currency of the prices, which are per million tokens."""
        paid = self.prompt_tokens * prompt_price + self.completion_tokens * completion_price
        return paid / 1e6


class _Retry(Exception):
    """The request may be sent again, after `wait` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class Endpoint:
    """Chat completions of one model.

    Attributes:
        url: up to the version, e.g. `http://localhost:8000/v1`.
        model: its name there.
        key: name of the environment variable that holds the key; without one, none is sent.
        cache: folder of answers; None keeps none. An answer is found again by url, model, messages
            and settings.
        temperature: of sampling.
        max_tokens: of an answer.
        concurrency: requests under way at once.
        retries: of one request, after waits of 1, 2, 4 ... seconds.
        timeout: seconds that one request may take as a whole.
        wait: the first of those waits, in seconds.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    cache: Path | None = None
    temperature: float = 0.0
    max_tokens: int = 256
    concurrency: int = 8
    retries: int = 5
    timeout: float = 120.0
    wait: float = 1.0
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:  # a port or an address that is none
            parts, host = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not host or not _ADDRESS.fullmatch(self.url):
            raise InputError(f"Expected an endpoint like http://localhost:8000/v1, got {self.url}.")
        if parts.username or parts.password or parts.query:
            raise InputError(
                f"Expected no credentials in the endpoint's address: put the key into the "
                f"environment variable {self.key}."
            )
        if not self.model.strip():
            raise InputError("Expected the name of a model at the endpoint, got an empty one.")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise InputError("Expected concurrency >= 1, retries >= 0 and a timeout above 0.")
        self.url = self.url.rstrip("/").removesuffix("/chat/completions")

    def ask(
        self,
        questions: Sequence[Messages],
        parse: Callable[[str], T] | Sequence[Callable[[str], T]],
        progress: str = "asking the endpoint",
        draws: Sequence[int] = (),
    ) -> list[T | None]:
        """Answers to questions, in order.

        Args:
            questions: conversations, whose answer is wanted.
            parse: what an answer says, or a function for each question; raises ValueError where it
                is malformed. Such a question is asked once more.
            progress: label of the progress bar.
            draws: where a question is asked several times, which time it is: each has an answer of
                its own in the cache.

        Returns:
            Parsed answers; None where there was none to be had.

        Raises:
            InputError: the endpoint refuses (key, model or address are wrong), or answered nothing.
        """
        parsers = [parse] * len(questions) if callable(parse) else list(parse)
        numbers = list(draws) or [0] * len(questions)
        if not len(questions) == len(parsers) == len(numbers):
            raise InputError("Expected as many parsers and draws as questions.")
        asked = list(zip(questions, parsers, numbers, strict=True))
        results: list[T | None] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                results.extend(asyncio.run(self._ask_all(asked, progress)))
            except BaseException as error:
                failure.append(error)

        # A thread of its own, since a notebook's has an event loop that is running already.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return results

    async def _ask_all(
        self, asked: Sequence[tuple[Messages, Callable[[str], T], int]], progress: str
    ) -> list[T | None]:
        import httpx2

        key = os.environ.get(self.key, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        gate, reasons = asyncio.Semaphore(self.concurrency), []
        limits = httpx2.Limits(max_connections=self.concurrency)
        with Bar(progress, len(asked)) as bar:
            async with httpx2.AsyncClient(
                headers=headers, timeout=self.timeout, limits=limits
            ) as client:

                async def one(messages: Messages, parse: Callable[[str], T], draw: int) -> T | None:
                    async with gate:
                        try:
                            return await self._answer(client, messages, parse, draw)
                        except _Retry as error:
                            self.usage.failed += 1
                            reasons.append(str(error))
                            return None
                        finally:
                            bar.advance()

                tasks = [asyncio.create_task(one(*question)) for question in asked]
                try:
                    results = list(await asyncio.gather(*tasks))
                except InputError as error:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    raise InputError(_hidden(str(error), key)) from None
        if asked and len(reasons) == len(asked):
            raise InputError(
                f"Expected answers from {self.url}, got none to {len(asked)} questions; the "
                f"last failure: {_hidden(reasons[-1], key)}. Is the endpoint up?"
            )
        return results

    async def _answer(
        self, client: Any, messages: Messages, parse: Callable[[str], T], draw: int
    ) -> T:
        """From the cache or the endpoint; a malformed answer is asked for once more."""
        body = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        path = self._path(body, draw)
        if path is not None and path.exists():
            try:
                parsed = parse(str(read_json(path)["answer"]))
                self.usage.cached += 1
                return parsed
            except (ValueError, KeyError):
                pass  # written by another parser, or damaged: ask again
        reason = ""
        for _ in range(2):
            answer = await self._request(client, body)
            try:
                parsed = parse(answer)
            except ValueError as error:
                self.usage.malformed += 1
                reason = f"a malformed answer ({error})"
                continue
            if path is not None:
                write_json(path, {"answer": answer, "model": self.model})
            return parsed
        raise _Retry(reason)

    async def _request(self, client: Any, body: Mapping[str, Any]) -> str:
        """One answer; what may be passing is tried again."""
        for attempt in range(self.retries + 1):
            self.usage.requests += 1
            self.usage.retries += attempt > 0
            try:
                async with asyncio.timeout(self.timeout):
                    return await self._send(client, body)
            except TimeoutError:
                reason = _Retry(f"no answer within {self.timeout:g} s")
            except _Retry as error:
                reason = error
            if attempt == self.retries:
                raise reason
            pause = max(self.wait * 2**attempt * (1 + random.random() / 4), reason.wait)
            await asyncio.sleep(min(pause, _LONGEST_WAIT))
        raise AssertionError

    async def _send(self, client: Any, body: Mapping[str, Any]) -> str:
        import httpx2

        raw = b""
        try:
            async with client.stream("POST", f"{self.url}/chat/completions", json=body) as reply:
                async for part in reply.aiter_bytes():
                    raw += part
                    if len(raw) > _LARGEST_BODY:
                        raise _Retry("an answer of more than 4 MiB")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _Retry(f"{type(error).__name__} {error}".strip()) from None
        text = " ".join(raw.decode("utf-8", "replace").split())[:200]
        if reply.status_code in _RETRIED:
            raise _Retry(f"status {reply.status_code} {text}", _seconds(reply.headers))
        if reply.status_code != 200:
            raise InputError(
                f"{self.url} refuses the model '{self.model}' with status {reply.status_code}: "
                f"{text or 'no reason given'}. Check the address, the model and ${self.key}."
            )
        try:
            found = parse_json(raw)
            answer = found["choices"][0]["message"]["content"]
            if not isinstance(answer, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError):
            self.usage.malformed += 1
            raise _Retry(f"no chat completion but '{text}'") from None
        counts = found.get("usage")
        counts = counts if isinstance(counts, dict) else {}
        for name in ("prompt_tokens", "completion_tokens"):
            count = counts.get(name)
            if type(count) is int and 0 <= count <= _MOST_TOKENS:
                setattr(self.usage, name, getattr(self.usage, name) + count)
        return answer

    def _path(self, body: Mapping[str, Any], draw: int) -> Path | None:
        if self.cache is None:
            return None
        which = {"draw": draw} if draw else {}
        text = json.dumps({"url": self.url, **body, **which}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        return Path(self.cache) / name[:2] / f"{name}.json"

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in asdict(self.usage).items() if n)
        return f"Endpoint({self.model!r} at {self.url}{': ' + counts if counts else ''})"


def _seconds(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0  # a date


def _hidden(text: str, key: str) -> str:
    """A message without the key, which some servers send back."""
    return text.replace(key, "***") if key else text
