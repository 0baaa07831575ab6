"""Batches of texts of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

BUCKETS = (
    *(8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512),
    *(640, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
)
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
    """Groups rows of like length, long ones first, into batches of about `batch_tokens` positions.

    Rows are taken in order of falling length, as many as fit at the bucket of the longest. Each
    bucket has one size, so it is compiled once; the last batch alone may be halved to what is left.

    Args:
        lengths: tokens of each row.
        batch_tokens: positions of a batch, padding included.
        multiple: of which each batch's size must be one (the number of devices).
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    start = 0
    while start < len(order):
        length = bucket(lengths[order[start]])
        size = max(1, batch_tokens // (length * multiple)) * multiple
        rows = order[start : start + size]
        start += size
        while len(rows) <= size // 2 and size // 2 % multiple == 0:
            size //= 2
        yield Batch(rows, length, size)
