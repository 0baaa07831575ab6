"""Rows of token pairs: both models read the same texts, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Int64

from atlas_jax.activations import TokenArray
from atlas_jax.activations.batches import plan_batches
from atlas_jax.errors import InputError
from atlas_jax.verbalize.pairs import (
    Encoded,
    Pairing,
    draw_pairs,
    encode,
    text_key,
    tokenizer_hash,
)

_TEXTS = 64


class Side(Protocol):
    """One of the two models at its site."""

    tokenizer: Any
    width: int

    def rows(
        self, texts: Sequence[int], encoded: Sequence[Encoded], at: Sequence[np.ndarray]
    ) -> Float32[np.ndarray, "n d"]: ...

    def about(self) -> dict[str, Any]: ...


class ModelSide:
    """A model that reads the texts.

    Args:
        model: a `LanguageModel`.
        site: of it.
        batch_tokens: positions of a batch.
    """

    def __init__(self, model: Any, site: str, batch_tokens: int = 2048) -> None:
        self.model, self.site, self.batch_tokens = model, site, batch_tokens
        self.tokenizer, self.width = model.tokenizer, model.width(site)

    def rows(
        self, texts: Sequence[int], encoded: Sequence[Encoded], at: Sequence[np.ndarray]
    ) -> Float32[np.ndarray, "n d"]:
        """Activations at the positions `at` of each text, one text after the other.

        Args:
            texts: their numbers.
            encoded: tokens of the texts; they are cut after the last position asked for.
            at: positions; at least one for each text.
        """
        starts = np.concatenate([[0], np.cumsum([len(a) for a in at])]).tolist()
        found = np.empty((starts[-1], self.width), np.float32)
        lengths = np.array([int(a[-1]) + 1 for a in at])
        for batch in plan_batches(lengths, self.batch_tokens):
            cut = [encoded[i].ids[: lengths[i]].tolist() for i in batch.rows]
            tokens, mask = self.tokenizer.pad(cut, batch.length)
            spare = batch.size - len(cut)
            tokens, mask = np.pad(tokens, ((0, spare), (0, 0))), np.pad(mask, ((0, spare), (0, 0)))
            mask[len(cut) :, 0] = True
            acts = self.model.read(tokens, mask, (self.site,))[self.site]
            row = np.repeat(np.arange(len(cut)), [len(at[i]) for i in batch.rows])
            column = np.concatenate([at[i] for i in batch.rows])
            size = 1 << (len(row) - 1).bit_length()  # few shapes, each compiled once
            pad = (0, size - len(row))
            taken = acts[jnp.asarray(np.pad(row, pad)), jnp.asarray(np.pad(column, pad))]
            goal = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in batch.rows])
            found[goal] = np.asarray(taken, np.float32)[: len(row)]
        return found

    def about(self) -> dict[str, Any]:
        """What identifies it."""
        return {
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "site": self.site,
            "width": self.width,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }


class StoreSide:
    """A store with every token's activations (`capture(..., pool="tokens")`) of these texts.

    Args:
        tokens: a site of it.
        tokenizer: of the model that was captured.
    """

    def __init__(self, tokens: TokenArray, tokenizer: Any) -> None:
        self.tokens, self.tokenizer, self.width = tokens, tokenizer, tokens.shape[1]

    def rows(
        self, texts: Sequence[int], encoded: Sequence[Encoded], at: Sequence[np.ndarray]
    ) -> Float32[np.ndarray, "n d"]:
        """As `ModelSide.rows`; the numbers are those of the store's texts."""
        offsets = self.tokens.offsets
        rows = []
        for text, tokens, positions in zip(texts, encoded, at, strict=True):
            raise_on_other_tokens(self.tokens, text, tokens)
            start, stop = int(offsets[text]), int(offsets[text + 1])
            if positions[-1] >= stop - start:
                raise InputError(
                    f"Expected at least {positions[-1] + 1} tokens of text {text} in the "
                    f"store, it has {stop - start}: capture with a larger max_tokens, or pair "
                    "with a smaller one."
                )
            rows.append(start + positions)
        return np.asarray(self.tokens.rows(np.concatenate(rows)), np.float32)

    def about(self) -> dict[str, Any]:
        """What identifies it."""
        meta = self.tokens.meta
        return {
            "model": meta["model"],
            "fingerprint": meta["fingerprint"],
            "site": self.tokens.site,
            "width": self.width,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }


def raise_on_other_tokens(tokens: TokenArray, text: int, encoded: Encoded) -> None:
    """Refuses a store whose tokens are not those of the text."""
    if text >= tokens.n_texts:
        raise InputError(f"Expected more than {text} texts in the store, it has {tokens.n_texts}.")
    start, stop = tokens.offsets[text : text + 2]
    there = tokens.ids[int(start) : int(stop)]
    n = min(len(there), len(encoded.ids))
    if (there[:n] != encoded.ids[:n]).any():
        raise InputError(
            f"Text {text} has other tokens in the store: it was captured on other texts, or with "
            "another tokenizer."
        )


class Block(NamedTuple):
    """Pairs of some texts: rows of both sides and the document of each; texts read so far."""

    source: Float32[np.ndarray, "n p"]
    target: Float32[np.ndarray, "n q"]
    documents: Int64[np.ndarray, " n"]
    texts: int


@dataclass
class PairReader:
    """Reads pairs.

    Attributes:
        source: one side.
        target: the other.
        texts: a corpus half (`Texts`), or texts.
        pairing: which tokens are paired.
        dropped: how many texts or pairs were left out, by reason.
    """

    source: Side
    target: Side
    texts: Sequence[str]
    pairing: Pairing

    def __post_init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._norms: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Blocks of pairs, of the texts from `start` on."""
        for first in range(start, len(self.texts), _TEXTS):
            stop = min(first + _TEXTS, len(self.texts))
            yield self._block(first, stop)

    def _block(self, first: int, stop: int) -> Block:
        texts = [str(self.texts[i]) for i in range(first, stop)]
        documents = getattr(self.texts, "documents", None)
        sources = getattr(self.texts, "sources", None)
        kept: list[int] = []
        sides: tuple[list[Encoded], list[Encoded]] = ([], [])
        at: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        keys: list[int] = []
        both = [
            encode(side.tokenizer, texts, self.pairing.max_tokens)
            for side in (self.source, self.target)
        ]
        for i, (a, b) in enumerate(zip(*both, strict=True)):
            if a is None or b is None:
                self.dropped["texts that a tokenizer rewrites"] += 1
                continue
            p, q = self._positions(a, b, text_key(texts[i]))
            if not len(p) or not len(q):
                self.dropped["texts without a shared end"] += 1
                continue
            kept.append(i)
            for side, encoded, positions in zip((0, 1), (a, b), (p, q), strict=True):
                sides[side].append(encoded)
                at[side].append(positions)
            name = documents[first + i] if documents is not None else ""
            key = text_key(sources[first + i], name) if name and sources else text_key(texts[i])
            keys.append(key)
        if not kept:
            empty = [np.zeros((0, side.width), np.float32) for side in (self.source, self.target)]
            return Block(empty[0], empty[1], np.zeros(0, np.int64), stop)
        rows = [
            self._read(side, first, kept, sides[k], at[k])
            for k, side in enumerate((self.source, self.target))
        ]
        count = [len(p) for p in at[0]] if self.pairing.pooling == "token" else [1] * len(kept)
        names = np.repeat(np.array(keys, np.int64), count)
        keep = self._typical(rows[0], 0) & self._typical(rows[1], 1)
        self.dropped["pairs with an outlying norm"] += int((~keep).sum())
        return Block(rows[0][keep], rows[1][keep], names[keep], stop)

    def _positions(
        self, a: Encoded, b: Encoded, key: int
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
        if self.pairing.pooling == "token":
            return draw_pairs(a, b, self.pairing, key)
        found = [np.flatnonzero(~side.special) for side in (a, b)]
        return tuple(p[p >= self.pairing.min_left] for p in found)  # type: ignore[return-value]

    def _read(
        self, side: Side, first: int, kept: list[int], encoded: list[Encoded], at: list[np.ndarray]
    ) -> Float32[np.ndarray, "n d"]:
        rows = side.rows([first + i for i in kept], encoded, at)
        if not np.isfinite(rows).all():
            raise InputError(f"Expected finite activations, {side.about()['model']} gave NaN.")
        if self.pairing.pooling == "token":
            return rows
        starts = np.concatenate([[0], np.cumsum([len(p) for p in at])])
        total = np.add.reduceat(rows.astype(np.float64), starts[:-1])
        return (total / np.diff(starts)[:, None]).astype(np.float32)

    def _typical(self, rows: Float32[np.ndarray, "n d"], side: int) -> np.ndarray:
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
        self._norms[side].append(norms.astype(np.float32))
        median = float(np.median(np.concatenate(self._norms[side])))
        return norms <= self.pairing.norm_factor * median
