"""Token-level activations of fixed contexts, recorded on disk or straight from a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, Int32

from atlas_jax.errors import InputError
from atlas_jax.files import write_json
from atlas_jax.outside import read_json, read_npy, refusing
from atlas_jax.progress import Bar

DTYPES = ("float16", "float32")


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


def collect(
    model: Reader,
    texts: Iterable[str],
    site: str,
    folder: Path,
    n_tokens: int,
    length: int = 64,
    batch: int = 32,
    seed: int = 0,
    dtype: str = "float16",
) -> TokenActivations:
    """Records a site on texts cut into contexts, on disk; resumes where it stopped.

    Args:
        model: whose activations.
        texts: whole documents.
        site: which activations.
        folder: where to; one folder for one combination of these arguments.
        n_tokens: how many token activations to record.
        length: tokens of a context; the first one, an attention sink, is left out.
        batch: contexts run together.
        seed: of the shuffle.
        dtype: `float16`, or `float32` for activations beyond 65,504.

    Raises:
        InputError: the folder holds another model's or site's activations, values beyond the
            dtype, or another dtype than the two.
    """
    if dtype not in DTYPES:
        raise InputError(f"Expected dtype {' or '.join(DTYPES)}, got '{dtype}'.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "fingerprint": model.fingerprint,
        "site": site,
        "n_tokens": n_tokens,
        "length": length,
        "seed": seed,
        "dtype": dtype,
    }
    state, width = folder / "state.json", model.width(site)
    done = 0
    if state.exists():
        found = {"dtype": "float16", "done": 0} | read_json(state)
        done = found.pop("done")
        if found != wanted:
            key = next(k for k in wanted if found.get(k) != wanted[k])
            raise InputError(
                f"Expected {key}={wanted[key]!r} in {folder}, it holds {found.get(key)!r}. Use "
                "another folder or delete it."
            )
        with refusing(f"the recording in {folder}", "Delete it"):
            tokens = np.array(read_npy(folder / "tokens.npy"))
            if type(done) is not int or not 0 <= done <= len(tokens) or tokens.ndim != 2:
                raise ValueError(f"{done!r} contexts of {tokens.shape} are done")
    else:
        tokens = cut_contexts(model.tokenizer, texts, n_tokens, length, seed)
        np.save(folder / "tokens.npy", tokens)
    rows = length - 1
    acts = np.lib.format.open_memmap(
        folder / "acts.npy",
        mode="r+" if done else "w+",
        dtype=np.dtype(dtype),
        shape=(len(tokens) * rows, width),
    )
    source, block = ModelActivations(model, site, tokens, batch), 64 * batch
    with Bar(f"recording {site}", len(tokens)) as bar:
        bar.advance(done)
        for start in range(done, len(tokens), block):
            part = np.arange(start, min(start + block, len(tokens)))
            values = source.read(part)
            if not np.abs(values).max() < np.finfo(dtype).max:
                raise InputError(
                    f"{site} has values beyond {dtype}: record it as float32, or choose another "
                    "site."
                )
            acts[start * rows : (start + len(part)) * rows] = values
            acts.flush()
            write_json(state, wanted | {"done": start + len(part)})
            bar.advance(len(part))
    return TokenActivations(acts, tokens)


def open_activations(folder: str | os.PathLike[str]) -> TokenActivations:
    """Opens recorded activations; of an unfinished recording, the contexts done so far.

    Contexts are recorded in random order, so those done are a fair sample of all.

    Raises:
        InputError: no recording there, or one that has not got anywhere yet.
    """
    folder = Path(folder)
    remedy = "`atlas-jax atlas train` records them"
    if not (folder / "state.json").is_file():
        raise InputError(f"Expected recorded activations in {folder}, found none: {remedy}.")
    with refusing(f"recorded activations in {folder}", remedy):
        done = int(read_json(folder / "state.json")["done"])
        tokens = np.array(read_npy(folder / "tokens.npy")[: max(0, done)])
        rows = read_npy(folder / "acts.npy")[: len(tokens) * (tokens.shape[1] - 1)]
        fits = rows.ndim == tokens.ndim == 2 and len(rows) == len(tokens) * (tokens.shape[1] - 1)
        if not fits or not rows.size or rows.dtype.name not in DTYPES or tokens.dtype != np.int32:
            raise ValueError(f"{rows.shape} activations of {tokens.shape} tokens")
        return TokenActivations(rows, tokens)


def fingerprint(source: TokenSource) -> str:
    """Names the tokens of a source."""
    return hashlib.sha256(np.ascontiguousarray(source.tokens).tobytes()).hexdigest()[:16]
