"""Semantic Lens: each subject feature as the mean of the atlas rows that activate it most."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Int

Gather = Callable[[np.ndarray], np.ndarray]

_FIRST = 64
_GATHER_ROWS = 2048


class TopSamples(NamedTuple):
    """The k samples that activate each feature most; among equals, the lower index.

    Attributes:
        values: (d_s, k), falling; -inf where there are fewer samples.
        indices: (d_s, k), -1 where there are fewer samples.
        least: (d_s,), the smallest value of each feature; equal to the largest for a dead one.
    """

    values: Float32[np.ndarray, "ds k"]
    indices: Int[np.ndarray, "ds k"]
    least: Float32[np.ndarray, " ds"]

    @classmethod
    def empty(cls, width: int, k: int) -> TopSamples:
        """No samples yet."""
        return cls(
            np.full((width, k), -np.inf, np.float32),
            np.full((width, k), -1, np.int64),
            np.full(width, np.inf, np.float32),
        )

    def add(self, acts: Float[np.ndarray, "n ds"], first: int) -> TopSamples:
        """Adds rows, numbered from `first` on; every row before has a lower number.

        What does not pass the least of the k best is left out at once. Rows are taken in parts as
        large as all rows before, so that few values pass: a late batch costs one comparison each.
        """
        found, start = self, 0
        while start < len(acts):
            stop = start + max(_FIRST, first + start)
            found = found._add(acts[start:stop], first + start)
            start = stop
        return found

    def _add(self, acts: Float[np.ndarray, "n ds"], first: int) -> TopSamples:
        least = np.minimum(self.least, acts.min(axis=0))
        rows, columns = np.divmod(np.flatnonzero(acts > self.values[:, -1]), acts.shape[1])
        if not rows.size:
            return self._replace(least=least)
        found = acts[rows, columns].astype(np.float32, copy=False)
        touched = np.unique(columns)
        slot = np.empty(len(self.values), np.int64)
        slot[touched] = np.arange(len(touched))
        k = self.values.shape[1]
        values = np.concatenate([self.values[touched].ravel(), found])
        indices = np.concatenate([self.indices[touched].ravel(), rows + first])
        owners = np.concatenate([np.repeat(np.arange(len(touched)), k), slot[columns]])
        best = _best(owners, values, indices, k)
        merged = self._replace(values=self.values.copy(), indices=self.indices.copy(), least=least)
        merged.values[touched] = values[best].reshape(-1, k)
        merged.indices[touched] = indices[best].reshape(-1, k)
        return merged

    def merge(self, other: TopSamples) -> TopSamples:
        """The top samples of both; the order of the two plays no role."""
        width, k = self.values.shape
        values = np.concatenate([self.values, other.values], axis=1).ravel()
        indices = np.concatenate([self.indices, other.indices], axis=1).ravel()
        owners = np.repeat(np.arange(width), k + other.values.shape[1])
        best = _best(owners, values, indices, k)
        return TopSamples(
            values[best].reshape(width, k),
            indices[best].reshape(width, k),
            np.minimum(self.least, other.least),
        )

    def shifted(self, rows: int) -> TopSamples:
        """The same samples, numbered from `rows` on."""
        return self._replace(indices=np.where(self.indices >= 0, self.indices + rows, -1))


def _best(owners: np.ndarray, values: np.ndarray, indices: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k first of each owner, by falling value, then by rising index."""
    order = np.lexsort((indices, -values, owners))
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    return order[(starts[:, None] + np.arange(k)).ravel()]


def semantic_lens(top: TopSamples, gather: Gather, width: int) -> Float32[np.ndarray, "ds dc"]:
    """T = B' A_c / k   (eq. 9): row j is the mean atlas row of the top samples of feature j.

    A feature whose values are all equal on the samples (a dead one) says nothing about which
    samples are its own; its row is zero.

    Args:
        top: the winners.
        gather: gives the atlas rows of some samples, in rising order, (m, d_c).
        width: d_c.

    Source: Dreyer et al. (2025), in the simplified form of the paper.
    """
    live = (top.values[:, :1] > top.least[:, None]) & (top.indices >= 0)
    counts = np.maximum(live.sum(axis=1), 1)
    wanted, position = np.unique(top.indices[live], return_inverse=True)
    features = np.nonzero(live)[0]
    shares = (1.0 / counts[features]).astype(np.float32)
    marks = scipy.sparse.coo_array((shares, (features, position)), (len(live), len(wanted))).tocsc()
    result = np.zeros((len(live), width), np.float32)
    for start in range(0, len(wanted), _GATHER_ROWS):
        rows = np.asarray(gather(wanted[start : start + _GATHER_ROWS]), np.float32)
        part = marks[:, start : start + _GATHER_ROWS].tocsr()
        result += part @ rows
    return result
