"""Batches of texts of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

LENGTHS = (
    *(8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 128),
    *(160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048),
    *(2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192),
)
"""Lengths that batches are padded to. Each is compiled once, which costs about as much as a batch;
finer steps pad less (benchmarks/capture.py counts both)."""

_MULTIPLE = 8
_HALVINGS = 2


@dataclass(frozen=True)
class Batch:
    """Rows to run together.

    Attributes:
        rows: their indices; fewer than `size` in the last batch of a plan.
        length: number of positions.
        size: number of rows the batch is filled up to.
    """

    rows: Int[np.ndarray, " n"]
    length: int
    size: int


def bucket(length: int) -> int:
    """The smallest of `LENGTHS` that holds `length` tokens."""
    return next((n for n in LENGTHS if n >= length), length)


def plan_batches(lengths: Sequence[int] | Int[np.ndarray, " n"], batch_tokens: int) -> list[Batch]:
    """Groups rows of like length, long ones first, into batches of about `batch_tokens` positions.

    Rows are taken in order of falling length, as many as fit at the padded length of the longest.
    Each length has one size, so it is compiled once; the last batch alone may be halved, twice, to
    what is left. The plan depends on nothing but the arguments: not on the machine.

    Args:
        lengths: tokens of each row.
        batch_tokens: positions of a batch, padding included.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    plan, start = [], 0
    while start < len(order):
        length = bucket(int(lengths[order[start]]))
        size = max(1, batch_tokens // length)
        if size > _MULTIPLE:  # devices share a batch evenly
            size -= size % _MULTIPLE
        rows = order[start : start + size]
        start += size
        for _ in range(_HALVINGS):
            if size % 2 == 0 and len(rows) <= size // 2:
                size //= 2
        plan.append(Batch(rows, length, size))
    return plan
