"""Semantic Lens: each subject feature as the mean of the atlas rows that activate it most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int

Gather = Callable[[np.ndarray], np.ndarray]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TopSamples:
    """The k samples that activate each feature most; among equals, the lower index.

    Attributes:
        values: (d_s, k), falling; -inf where there are fewer samples.
        indices: (d_s, k), -1 where there are fewer samples.
        least: (d_s,), the smallest value of each feature; equal to the largest for a dead one.
    """

    values: Float[Array, "ds k"]
    indices: Int[Array, "ds k"]
    least: Float[Array, " ds"]

    @classmethod
    def init(cls, width: int, k: int) -> TopSamples:
        """No samples yet."""
        return cls(
            jnp.full((width, k), -jnp.inf, jnp.float32),
            jnp.full((width, k), -1, jnp.int32),
            jnp.full((width,), jnp.inf, jnp.float32),
        )

    def update(self, acts: Float[Array, "n ds"], start: Int[Array, ""]) -> TopSamples:
        """Adds a batch of rows, the first of which is sample `start`."""
        k = min(self.values.shape[1], acts.shape[0])
        # A stable choice: among equal values lax.top_k takes the lower position first.
        acts = acts.astype(jnp.float32)
        values, rows = lax.top_k(acts.T, k)
        least = jnp.min(acts, axis=0)
        return self.merge(TopSamples(values, rows.astype(jnp.int32) + start, least))

    def merge(self, other: TopSamples) -> TopSamples:
        """The top samples of both; the order of the two plays no role."""
        k = self.values.shape[1]
        values = jnp.concatenate([self.values, other.values], axis=1)
        indices = jnp.concatenate([self.indices, other.indices], axis=1)
        negated, indices = lax.sort((-values, indices), dimension=1, num_keys=2)
        least = jnp.minimum(self.least, other.least)
        return TopSamples(-negated[:, :k], indices[:, :k], least)


def semantic_lens(top: TopSamples, gather: Gather, width: int) -> Float32[np.ndarray, "ds dc"]:
    """T = B' A_c / k   (eq. 9): row j is the mean atlas row of the top samples of feature j.

    A feature whose values are all equal on the samples (a dead one) says nothing about which
    samples are its own; its row is zero.

    Args:
        top: the winners.
        gather: gives the atlas rows of some samples, (m, d_c).
        width: d_c.

    Source: Dreyer et al. (2025), in the simplified form of the paper.
    """
    indices = np.asarray(top.indices)
    live = np.asarray(top.values)[:, 0] > np.asarray(top.least)
    result = np.zeros((len(indices), width), np.float32)
    wanted = np.unique(indices[live][indices[live] >= 0])
    if not wanted.size:
        return result
    rows = np.asarray(gather(wanted), np.float32)
    for feature in np.flatnonzero(live):
        mine = indices[feature][indices[feature] >= 0]
        result[feature] = rows[np.searchsorted(wanted, mine)].mean(axis=0, dtype=np.float32)
    return result
