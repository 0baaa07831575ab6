"""The samples that activate each feature most, of a whole layer in one pass over its rows."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import tensorstore as ts
from jaxtyping import Float, Float32, Int64

from atlas_jax.activations.kvstore import read_bytes
from atlas_jax.outside import read_npz


@dataclass(frozen=True)
class TopSamples:
    """For each feature, its k largest activations; of equal ones, those of lower rows.

    Attributes:
        values: the activations, the largest first.
        rows: where they are.
    """

    values: Float32[np.ndarray, "k d"]
    rows: Int64[np.ndarray, "k d"]

    @classmethod
    def init(cls, k: int, width: int) -> TopSamples:
        """Nothing seen yet."""
        return cls(np.full((k, width), -np.inf, np.float32), np.full((k, width), -1, np.int64))

    def update(self, batch: Float[np.ndarray, "b d"], start: int) -> TopSamples:
        """Takes rows in, of which the first is row `start`, the number of rows seen so far.

        A row enters where it exceeds the smallest of the k. Few do once some have been seen, and
        only those are sorted; so the first rows are taken in steps that double.
        """
        top, k = self, len(self.values)
        while len(batch):
            step = max(k, start)
            top = top._merge(batch[:step].astype(np.float32, copy=False), start)
            batch, start = batch[step:], start + len(batch[:step])
        return top

    def _merge(self, batch: Float32[np.ndarray, "b d"], start: int) -> TopSamples:
        row, feature = np.nonzero(batch > self.values[-1])
        if not len(row):
            return self
        k = len(self.values)
        touched, place = np.unique(feature, return_inverse=True)
        values = np.concatenate([self.values[:, touched].ravel(), batch[row, feature]])
        rows = np.concatenate([self.rows[:, touched].ravel(), row + start])
        owner = np.concatenate([np.tile(np.arange(len(touched)), k), place])
        # Rows come in rising order but for equal values among the first k, which are in order too:
        # sorting by value and then by feature, each time keeping the order of equals, is enough.
        order = np.argsort(-values, kind="stable")
        order = order[np.argsort(owner[order].astype(np.uint32), kind="stable")]
        begins = np.searchsorted(owner[order], np.arange(len(touched)))
        best = order[begins + np.arange(k)[:, None]]
        out = TopSamples(self.values.copy(), self.rows.copy())
        out.values[:, touched], out.rows[:, touched] = values[best], rows[best]
        return out

    def first(self, k: int) -> TopSamples:
        """The k largest of these."""
        return TopSamples(self.values[:k], self.rows[:k])

    def to_bytes(self) -> bytes:
        """As an npz file, whose zip records have a checksum."""
        out = io.BytesIO()
        np.savez(out, values=self.values, rows=self.rows)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TopSamples:
        """What `to_bytes` made."""
        parts = read_npz(io.BytesIO(content))
        return cls(parts["values"], parts["rows"])


def find_top_samples(batches: Iterable[np.ndarray], width: int, k: int) -> TopSamples:
    """The k samples of each feature, from all rows in order."""
    top, start = TopSamples.init(k, width), 0
    for batch in batches:
        top = top.update(batch, start)
        start += len(batch)
    return top


def load_top_samples(kv: ts.KvStore, key: str, k: int) -> TopSamples | None:
    """What was saved under a key; None where that is nothing, less than k, or damaged."""
    with suppress(Exception):  # found again at the cost of one pass
        content = read_bytes(kv, key)
        top = None if content is None else TopSamples.from_bytes(content)
        return top.first(k) if top is not None and len(top.values) >= k else None
    return None
