"""Token-level activations of fixed contexts, in memory or straight from a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, Int32

from atlas_jax.errors import InputError


class Reader(Protocol):
    """What is asked of a model here (`LanguageModel` has it)."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Encoder: ...

    def width(self, site: str) -> int: ...

    def read(
        self, tokens: np.ndarray, mask: np.ndarray, sites: tuple[str, ...]
    ) -> dict[str, Array]: ...


class Encoder(Protocol):
    """The tokenizer's one method that is needed."""

    @property
    def bos_id(self) -> int | None: ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


@runtime_checkable
class TokenSource(Protocol):
    """Activations of every token but the first of each context.

    `tokens` (contexts, length) are token ids; `read` gives the activations (m (length - 1), d) of
    m contexts in the order asked for.
    """

    @property
    def tokens(self) -> np.ndarray: ...

    @property
    def width(self) -> int: ...

    def read(self, contexts: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenActivations:
    """A recording.

    Attributes:
        acts: (contexts * (length - 1), d), on disk; row c * (length - 1) + t - 1 is token t of
            context c.
        tokens: (contexts, length) token ids.
    """

    acts: Float[np.ndarray, "rows d"]
    tokens: Int32[np.ndarray, "contexts length"]

    @property
    def width(self) -> int:
        """d."""
        return self.acts.shape[1]

    def read(self, contexts: Int[np.ndarray, " m"]) -> Float[np.ndarray, "rows_m d"]:
        """Activations of some contexts, in the order asked for."""
        count, rows = len(self.tokens), self.tokens.shape[1] - 1
        return self.acts.reshape(count, rows, -1)[contexts].reshape(-1, self.width)


@dataclass(frozen=True)
class ModelActivations:
    """A model that is run when its activations are asked for; nothing is stored.

    Attributes:
        model: whose activations.
        site: which ones.
        tokens: (contexts, length) token ids.
        batch: contexts run together.
    """

    model: Reader
    site: str
    tokens: Int32[np.ndarray, "contexts length"]
    batch: int = 32

    @property
    def width(self) -> int:
        """d."""
        return self.model.width(self.site)

    def read(self, contexts: Int[np.ndarray, " m"]) -> Float[np.ndarray, "rows_m d"]:
        """Activations of some contexts, in the order asked for."""
        rows = self.tokens.shape[1] - 1
        out = np.empty((len(contexts), rows, self.width), np.float32)
        waiting: list[tuple[int, int, Array]] = []

        def keep() -> None:
            start, count, acts = waiting.pop(0)
            out[start : start + count] = np.asarray(acts, np.float32)[:count, 1:]

        for start in range(0, len(contexts), self.batch):
            part = self.tokens[contexts[start : start + self.batch]]
            filled = np.concatenate([part, np.repeat(part[:1], self.batch - len(part), 0)])
            mask = np.ones(filled.shape, bool)
            acts = self.model.read(filled, mask, (self.site,))[self.site]
            waiting.append((start, len(part), acts))
            if len(waiting) > 1:  # one batch is computed while the last one is copied
                keep()
        while waiting:
            keep()
        return out.reshape(-1, self.width)


def cut_contexts(
    encoder: Encoder, texts: Iterable[str], n_tokens: int, length: int, seed: int
) -> Int32[np.ndarray, "contexts length"]:
    """Joins shuffled texts, cuts them into equal contexts and keeps enough for `n_tokens`.

    Short texts share a context, separated by a blank line, so that none is lost.

    Raises:
        InputError: all texts together are shorter than one context.
    """
    if length < 2:
        raise InputError(f"Expected contexts of at least 2 tokens, got {length}.")
    head = [] if encoder.bos_id is None else [encoder.bos_id]
    body = length - len(head)
    order = np.random.default_rng(seed)
    shuffled = list(texts)
    order.shuffle(shuffled)
    stream = np.concatenate(
        [
            np.array(ids[len(head) :], np.int32)
            for start in range(0, len(shuffled), 256)
            for ids in encoder.encode_batch([t + "\n\n" for t in shuffled[start : start + 256]])
        ]
        or [np.zeros(0, np.int32)]
    )
    count = len(stream) // body
    if not count:
        raise InputError(f"Expected texts of at least {length} tokens in all, got {len(stream)}.")
    rows = stream[: count * body].reshape(count, body)
    rows = rows[order.permutation(count)[: -(-n_tokens // (length - 1))]]
    return np.concatenate([np.tile(np.array(head, np.int32), (len(rows), 1)), rows], axis=1)


def fingerprint(source: TokenSource) -> str:
    """Names the tokens of a source."""
    return fingerprint_of(source.tokens)


def fingerprint_of(tokens: np.ndarray) -> str:
    """Of contexts."""
    return hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()[:16]
