"""Lengths of texts: mean, standard deviation and extremes, to the last bit on any machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Integer

from atlas_jax.corpus.texts import Texts

PAPER: dict[str, Any] = {
    "texts": 1_000_000,
    "train": 500_000,
    "eval": 500_000,
    "characters": {"mean": 120.4, "sd": 72.5, "min": 2, "max": 391},
    "tokens": {"mean": 30.1, "sd": 18.6},
}
"""The paper's corpus (arXiv 2510.27413, A.2); tokens are those of Llama 3.1 8B."""


@dataclass(frozen=True)
class Lengths:
    """Sums over lengths, in whole numbers: neither order nor machine plays a role.

    Attributes:
        n: how many lengths.
        total: their sum.
        squares: the sum of their squares.
        low: the least; high: the greatest.
    """

    n: int = 0
    total: int = 0
    squares: int = 0
    low: int | None = None
    high: int | None = None

    @classmethod
    def of(cls, lengths: Integer[np.ndarray, "n"]) -> Lengths:
        """The sums of some lengths."""
        if not len(lengths):
            return cls()
        values, counts = (part.tolist() for part in np.unique(lengths, return_counts=True))
        pairs = list(zip(values, counts, strict=True))
        total = sum(length * n for length, n in pairs)
        squares = sum(length**2 * n for length, n in pairs)
        return cls(len(lengths), total, squares, values[0], values[-1])

    def __add__(self, other: Lengths) -> Lengths:
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        return Lengths(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            min(lows, default=None),
            max(highs, default=None),
        )

    @property
    def mean(self) -> float:
        """total / n."""
        return self.total / self.n

    @property
    def sd(self) -> float:
        """Standard deviation of the population: sqrt(n squares - total^2) / n."""
        return math.sqrt(self.n * self.squares - self.total**2) / self.n

    def to_dict(self) -> dict[str, float] | None:
        """Mean, SD, min and max; None where there is no length."""
        if self.low is None or self.high is None:
            return None
        return {"mean": self.mean, "sd": self.sd, "min": self.low, "max": self.high}


def characters(texts: Texts) -> Lengths:
    """The lengths of texts in characters (code points)."""
    return Lengths.of(pc.call_function("utf8_length", [texts.table["text"]]).to_numpy())
