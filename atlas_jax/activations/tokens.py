"""The tokens of a corpus: one flat array with offsets, and batches of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int32, Int64

from atlas_jax.activations.batches import Batch
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

_TEXTS = 1024


class Encoder(Protocol):
    """The tokenizer of a source."""

    pad_id: int

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


class Corpus(Protocol):
    """Texts with a hash (`Texts`)."""

    @property
    def hash(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Iterable[str]: ...


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, one after the other.

    Attributes:
        ids: of all texts.
        offsets: text i owns ids offsets[i] to offsets[i + 1].
        cut: how many texts were longer than allowed.
    """

    ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " n_plus_1"]
    cut: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each text."""
        return np.diff(self.offsets)

    def batch(
        self, batch: Batch, first: int, multiple: int, pad_id: int
    ) -> tuple[Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Token ids (B, T) and the mask of real tokens; rows to spare repeat the first text.

        Args:
            batch: its rows count from text `first`.
            first: a text.
            multiple: B is filled up to one (the devices that share it).
            pad_id: at padding.
        """
        size = -(-batch.size // multiple) * multiple
        texts = np.full(size, first + batch.rows[0])
        texts[: len(batch.rows)] = first + batch.rows
        position = np.arange(batch.length)
        mask = position < self.lengths[texts][:, None]
        tokens = np.full(mask.shape, pad_id, np.int32)
        tokens[mask] = self.ids[(self.offsets[texts][:, None] + position)[mask]]
        return tokens, mask


def tokenize(encoder: Encoder, texts: Corpus, max_tokens: int, label: str) -> Tokens:
    """Encodes all texts and cuts them to `max_tokens`.

    Raises:
        InputError: a text of one token, naming its row.
    """
    parts: list[np.ndarray] = []
    lengths = np.zeros(len(texts), np.int64)
    cut = 0
    with Bar(label, len(texts)) as bar:
        for start in range(0, len(texts), _TEXTS):
            some = [str(text) for text in texts[start : start + _TEXTS]]
            for i, ids in enumerate(encoder.encode_batch(some)):
                if len(ids) < 2:
                    raise InputError(
                        f"Text {start + i} ({some[i][:40]!r}) has {len(ids)} tokens, and the first "
                        "of a text is never pooled: leave texts of fewer than two tokens out."
                    )
                cut += len(ids) > max_tokens
                parts.append(np.array(ids[:max_tokens], np.int32))
                lengths[start + i] = len(parts[-1])
            bar.advance(len(some))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(np.concatenate(parts), offsets, cut)
