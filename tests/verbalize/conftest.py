"""Pairs of rows whose map is known."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from atlas_jax.verbalize.bridge_moments import BridgeMoments, PairSums

P, Q, N, FOLDS = 12, 15, 700, 5


@dataclass
class Rows:
    """x, y = A x + b + noise, and each pair's document."""

    x: np.ndarray
    y: np.ndarray
    documents: np.ndarray
    true: np.ndarray

    def moments(self, held: int = 0, order=None, blocks: int = 7) -> BridgeMoments:
        """Streamed in blocks."""
        sums = PairSums(FOLDS, held)
        order = np.arange(len(self.x)) if order is None else order
        for part in np.array_split(order, blocks):
            sums.add(self.x[part], self.y[part], self.documents[part])
        return sums.moments({"source": {"model": "s"}, "target": {"model": "t"}, "runs": ["a"]})


def make_rows(seed: int, n: int = N, offset: float = 30.0) -> Rows:
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((Q, P))
    spread_x, spread_y = np.exp(1.2 * rng.standard_normal(P)), np.exp(rng.standard_normal(Q))
    x = rng.standard_normal((n, P)) @ rng.standard_normal((P, P)) * spread_x
    x = x + offset * rng.standard_normal(P)
    y = (x @ true.T + 50 * rng.standard_normal(Q) + 3 * rng.standard_normal((n, Q))) * spread_y
    # Documents that no part holds out: their number's quotient is no multiple of 16.
    names = rng.integers(0, 2 * FOLDS, n) + 2 * FOLDS * (1 + 16 * rng.integers(0, 40, n))
    return Rows(x, y, names, spread_y[:, None] * true)


@pytest.fixture(scope="session")
def rows() -> Rows:
    """The pairs most tests use."""
    return make_rows(0)


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
