"""How well scores rank labelled samples: AUROC, average precision, and intervals of means."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float


class Interval(NamedTuple):
    """A mean over queries with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


@jax.jit
def ranking_quality(
    scores: Float[Array, "n q"], labels: Bool[Array, "n q"]
) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    """AUROC and average precision of each column, from one sort.

    AUROC = P(score of a positive > score of a negative) + P(equal) / 2
    AP    = sum_t (recall_t - recall_(t-1)) precision_t, over the distinct scores t, from the top

    Tied scores are one threshold, as in scikit-learn. Columns are taken one at a time, so memory
    stays at a few vectors of length n. Counts are int32 and sums are pairwise: both values are
    within 1e-6 of float64 at any n below 2^30.

    Args:
        scores: a column for each query; higher means more alike.
        labels: True where the sample has the query's concept.

    Returns:
        AUROC (q,) and AP (q,); NaN where a column has one class or a NaN score.
    """

    def column(index: Array) -> tuple[Array, Array]:
        return _one(
            lax.dynamic_index_in_dim(scores, index, axis=1, keepdims=False).astype(jnp.float32),
            lax.dynamic_index_in_dim(labels, index, axis=1, keepdims=False),
        )

    return lax.map(column, jnp.arange(scores.shape[1], dtype=jnp.int32))


@jax.jit
def auroc(scores: Float[Array, "n q"], labels: Bool[Array, "n q"]) -> Float[Array, " q"]:
    """Area under the ROC curve of each column; see `ranking_quality`."""
    return ranking_quality(scores, labels)[0]


@jax.jit
def average_precision(
    scores: Float[Array, "n q"], labels: Bool[Array, "n q"]
) -> Float[Array, " q"]:
    """Average precision of each column; see `ranking_quality`."""
    return ranking_quality(scores, labels)[1]


def _one(scores: Float[Array, " n"], labels: Bool[Array, " n"]) -> tuple[Array, Array]:
    descending, positive = lax.sort((-scores, labels.astype(jnp.int32)), num_keys=1)
    change = descending[1:] != descending[:-1]
    edge = jnp.ones((1,), bool)
    first, last = jnp.concatenate([edge, change]), jnp.concatenate([change, edge])
    hits, misses = jnp.cumsum(positive), jnp.cumsum(1 - positive)
    n_positive, n_negative = hits[-1], misses[-1]
    # Counts never fall along the ranking, so a running extremum spreads a group's over its ties.
    most = jnp.iinfo(jnp.int32).max
    hits_to = lax.cummin(jnp.where(last, hits, most), reverse=True)
    misses_to = lax.cummin(jnp.where(last, misses, most), reverse=True)
    misses_before = lax.cummax(jnp.where(first, misses - (1 - positive), 0))
    above = (n_negative - misses_to) + (n_negative - misses_before)
    area = _mean_of_positives(_ratio(above, 2 * n_negative), positive)
    precision = _mean_of_positives(_ratio(hits_to, hits_to + misses_to), positive)
    valid = (n_positive > 0) & (n_negative > 0) & ~jnp.any(jnp.isnan(scores))
    return jnp.where(valid, area, jnp.nan), jnp.where(valid, precision, jnp.nan)


def _ratio(top: Array, bottom: Array) -> Array:
    return top.astype(jnp.float32) / bottom.astype(jnp.float32)


def _mean_of_positives(values: Float[Array, " n"], positive: Array) -> Float[Array, ""]:
    return pairwise_sum(jnp.where(positive > 0, values, 0.0)) / jnp.sum(positive).astype(
        jnp.float32
    )


def pairwise_sum(values: Float[Array, " n"]) -> Float[Array, ""]:
    """Sum by halving: rounding grows with log n, where that of a running sum grows with n."""
    size = 1 << max(values.shape[0] - 1, 0).bit_length()
    values = jnp.pad(values, (0, size - values.shape[0]))
    while size > 1:
        size //= 2
        values = values[:size] + values[size:]
    return values[0]


def mean_interval(
    values: Float[np.ndarray, " q"], seed: int = 0, draws: int = 1000, level: float = 0.95
) -> Interval:
    """Mean over queries, with the percentile bootstrap over queries.

    Args:
        values: one value for each query; NaN is left out.
        seed: of the resampling.
        draws: resamples.
        level: probability mass of the interval.

    Returns:
        Mean, lower and upper end; all NaN where no value is left.
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"))
    chosen = np.random.default_rng(seed).integers(len(kept), size=(draws, len(kept)))
    tail = (1 - level) / 2
    low, high = np.quantile(kept[chosen].mean(axis=1), [tail, 1 - tail])
    return Interval(float(kept.mean()), float(low), float(high))
