"""Batches of texts of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
"""Lengths that batches are padded to; few, because each is compiled once."""


@dataclass(frozen=True)
class Batch:
    """Rows to run together.

    Attributes:
        rows: their indices; fewer than `size` in the last batch of a bucket.
        length: number of positions.
        size: number of rows the batch is filled up to.
    """

    rows: Int[np.ndarray, " n"]
    length: int
    size: int


def bucket(length: int) -> int:
    """The smallest bucket that holds `length` tokens."""
    return next((b for b in BUCKETS if b >= length), length)


def plan_batches(lengths: Sequence[int], batch_tokens: int, multiple: int = 1) -> Iterator[Batch]:
    """Groups rows by bucket, long ones first, into batches of about `batch_tokens` positions.

    Args:
        lengths: tokens of each row.
        batch_tokens: positions of a batch, padding included.
        multiple: of which each batch's size must be one (the number of devices).
    """
    buckets = np.array([bucket(length) for length in lengths], np.int64)
    for length in sorted(set(buckets.tolist()), reverse=True):
        rows = np.flatnonzero(buckets == length)
        size = max(1, batch_tokens // (length * multiple)) * multiple
        for start in range(0, len(rows), size):
            yield Batch(rows[start : start + size], length, size)
