"""Capture: run a model over texts and record what it does, resumably."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array

from atlas_jax.activations.batches import Batch, plan_batches
from atlas_jax.activations.pool import PoolFunction, find_pool
from atlas_jax.activations.store import ActivationStore
from atlas_jax.activations.writer import StoreWriter
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

_SHARD_BYTES = 64 * 2**20
_LEAST_ROWS = 1024
_SHARDS = 64


class Encoder(Protocol):
    """The tokenizer of a source."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...

    def pad(
        self, rows: list[list[int]], length: int, left: bool = False
    ) -> tuple[np.ndarray, np.ndarray]: ...


class Source(Protocol):
    """What is captured: a `LanguageModel` or an `Atlas`."""

    name: str
    fingerprint: str

    @property
    def tokenizer(self) -> Encoder: ...

    @property
    def sites(self) -> tuple[str, ...]: ...

    def width(self, site: str) -> int: ...

    def read(
        self, tokens: Any, mask: Any, sites: Sequence[str], pool: PoolFunction | None = None
    ) -> dict[str, Array]: ...


class Corpus(Protocol):
    """Texts with a hash (`Texts`)."""

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def hash(self) -> str: ...


def capture(
    source: Source,
    texts: Corpus,
    sites: Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str],
    pool: str = "max",
    batch_tokens: int = 2048,
    max_tokens: int = 512,
    rows_per_shard: int | None = None,
    progress: str | None = None,
) -> ActivationStore:
    """Records the pooled activations of every text, in the order of the texts.

    Row i of each array is text i: its site's activations, pooled over its real tokens but the
    first. A store that an earlier run left unfinished is completed; nothing is computed twice.

    Args:
        source: a language model or an atlas.
        texts: the corpus.
        sites: names; default: the source's own.
        out: folder or kvstore URL (file, gs, s3, memory).
        pool: `max`, `mean`, `absmax` or `last`.
        batch_tokens: positions of a batch.
        max_tokens: longer texts are cut; the store's meta counts them.
        rows_per_shard: rows planned and written together; default: 1,024, more of a large corpus.
        progress: label of the progress bar.

    Raises:
        InputError: an unknown site or pooling, a text of one token (naming its row), or a store
            that holds something else.
    """
    names = tuple(dict.fromkeys(sites if sites is not None else source.sites))
    widths = {site: source.width(site) for site in names}
    pooling = find_pool(pool)
    n = len(texts.texts)
    if not n:
        raise InputError("Expected at least one text to capture, got none.")
    rows = _tokenize(source, texts, max_tokens)
    shapes = jax.eval_shape(lambda t, m: source.read(t, m, names, pooling), *_shape(1, 16))
    dtypes = {site: np.dtype(shapes[site].dtype).name for site in names}
    shard = rows_per_shard or _shard_rows(n, max(widths.values()))
    meta = {
        "model": source.name,
        "fingerprint": source.fingerprint,
        "texts": texts.hash,
        "n": n,
        "pool": pool,
        "max_tokens": max_tokens,
        "cut": sum(len(ids) > max_tokens for ids in rows),
        "rows_per_shard": shard,
        "sites": {site: {"width": widths[site], "dtype": dtypes[site]} for site in names},
    }
    rows = [ids[:max_tokens] for ids in rows]
    with StoreWriter(out, meta) as writer, Bar(progress or f"reading {source.name}", n) as bar:
        bar.advance(min(n, len(writer.done) * shard))
        for index in range(writer.n_shards):
            if index in writer.done:
                continue
            part = rows[index * shard : (index + 1) * shard]
            buffers = {site: np.empty((len(part), widths[site]), dtypes[site]) for site in names}
            waiting: tuple[Batch, dict[str, Array]] | None = None
            for batch in plan_batches([len(ids) for ids in part], batch_tokens):
                result = (batch, _run(source, part, batch, names, pooling))
                if waiting:  # the device works on this batch while the last one is copied
                    bar.advance(_store(buffers, *waiting))
                waiting = result
            if waiting:
                bar.advance(_store(buffers, *waiting))
            writer.write(index, buffers)
    return ActivationStore.open(out)


def _tokenize(source: Source, texts: Corpus, max_tokens: int) -> list[list[int]]:
    if max_tokens < 2:
        raise InputError(f"Expected max_tokens of at least 2, got {max_tokens}.")
    rows: list[list[int]] = []
    for start in range(0, len(texts.texts), 1024):
        rows += source.tokenizer.encode_batch(list(texts.texts[start : start + 1024]))
    short = next((i for i, ids in enumerate(rows) if len(ids) < 2), None)
    if short is not None:
        raise InputError(
            f"Text {short} ({texts.texts[short][:40]!r}) has {len(rows[short])} tokens, and the "
            "first of a text is never pooled: leave texts of fewer than two tokens out."
        )
    return rows


def _run(
    source: Source, part: list[list[int]], batch: Batch, sites: tuple[str, ...], pool: PoolFunction
) -> dict[str, Array]:
    ids = [part[i] for i in batch.rows]
    filler = [ids[0]] * (batch.size - len(ids))
    tokens, mask = source.tokenizer.pad(ids + filler, batch.length)
    return source.read(tokens, mask, sites, pool)


def _store(buffers: dict[str, np.ndarray], batch: Batch, acts: dict[str, Array]) -> int:
    for site, buffer in buffers.items():
        buffer[batch.rows] = np.asarray(acts[site])[: len(batch.rows)]
    return len(batch.rows)


def _shard_rows(n: int, width: int) -> int:
    """A power of two: at most 64 MB of float32, else 1,024 rows or a 64th of the corpus.

    Batches are planned within a shard: in one of few rows, texts of unlike length would have to
    share a batch.
    """
    wanted = min(_SHARD_BYTES // (4 * width), max(_LEAST_ROWS, n // _SHARDS))
    return 1 << (max(wanted, 64).bit_length() - 1)


def _shape(batch: int, length: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return (
        jax.ShapeDtypeStruct((batch, length), np.int32),
        jax.ShapeDtypeStruct((batch, length), np.bool_),
    )
