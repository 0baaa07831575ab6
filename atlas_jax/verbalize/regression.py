"""A check of mapped directions that needs no map: what of the target goes with a feature.

    beta_f = Cov(y, a_f) / Var(a_f)

over token pairs, a_f the feature's activation on the source's token, y the target's state. Where a
bridge carries d_f well, M d_f and beta_f point the same way.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from atlas_jax.errors import InputError
from atlas_jax.verbalize.bridge import Bridge, cosines


class RegressionSums:
    """Sums over blocks of pairs, about the first block's means."""

    def __init__(self) -> None:
        self.n = 0
        self._pilot: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, acts: Float[np.ndarray, "n f"], target: Float[np.ndarray, "n q"]) -> None:
        """Adds a block: activations of the features, and rows of the target."""
        if not len(acts):
            return
        a, y = acts.astype(np.float64), target.astype(np.float64)
        if self._pilot is None:
            self._pilot = a.mean(axis=0), y.mean(axis=0)
            self._a, self._aa = np.zeros(a.shape[1]), np.zeros(a.shape[1])
            self._y, self._ay = np.zeros(y.shape[1]), np.zeros((a.shape[1], y.shape[1]))
        a, y = a - self._pilot[0], y - self._pilot[1]
        self.n += len(a)
        self._a += a.sum(axis=0)
        self._y += y.sum(axis=0)
        self._aa += (a * a).sum(axis=0)
        self._ay += a.T @ y

    def directions(self) -> Float64[np.ndarray, "f q"]:
        """beta of each feature; NaN for one that never changes.

        Raises:
            InputError: no pairs.
        """
        if self._pilot is None:
            raise InputError("Expected pairs, got none.")
        spread = self._aa - self._a**2 / self.n
        together = self._ay - np.outer(self._a, self._y) / self.n
        alive = spread > 1e-12 * np.maximum(self._aa, 1e-300)
        return together / np.where(alive, spread, np.nan)[:, None]

    def check(self, bridge: Bridge, decoder: Float[np.ndarray, "f p"]) -> Float64[np.ndarray, " f"]:
        """cos(M d_f, beta_f), in units of the target's standard deviations, so that no dimension of
        large variance decides alone; NaN for features that never change."""
        scale = bridge.scale_y
        return cosines(bridge.mapped(decoder) / scale, self.directions() / scale)
