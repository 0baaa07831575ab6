"""Means over queries with intervals, and paired tests between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

_EXACT = 16
"""Up to this many pairs every assignment of signs is tried: 2^16 of them."""


class Interval(NamedTuple):
    """A mean over queries with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


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


def sign_flip_test(
    differences: Float[np.ndarray, " q"], seed: int = 0, draws: int = 20_000
) -> float:
    """Two-sided permutation test of a paired difference of means.

    Under the null hypothesis the two methods are exchangeable for each query, so each difference
    is as likely with the other sign. p = P(|mean of flipped differences| >= |observed mean|); exact
    over all 2^q assignments for few pairs, else p = (1 + exceeding draws) / (1 + draws).

    Args:
        differences: one for each query; NaN is left out.
        seed: of the draws.
        draws: random assignments of signs.

    Returns:
        The p value; NaN where no pair is left.
    """
    return float(sign_flip_tests(np.asarray(differences)[:, None], seed, draws)[0])


def sign_flip_tests(
    differences: Float[np.ndarray, "q t"], seed: int = 0, draws: int = 20_000
) -> Float[np.ndarray, " t"]:
    """`sign_flip_test` of each column, all under the same random signs."""
    gaps = np.asarray(differences, np.float64)
    kept = ~np.isnan(gaps)
    gaps = np.where(kept, gaps, 0.0)  # a pair that is left out adds nothing, whatever its sign
    # Sums in another order count as equal.
    observed = np.abs(gaps.sum(axis=0)) - 1e-12 * np.abs(gaps).sum(axis=0)
    rng = np.random.default_rng([seed, 2])
    exceeding, left = np.zeros(gaps.shape[1], np.int64), draws
    while left:
        size = min(left, 2000)
        signs = rng.integers(0, 2, (size, len(gaps)), dtype=np.int8) * 2.0 - 1.0
        exceeding += np.count_nonzero(np.abs(signs @ gaps) >= observed, axis=0)
        left -= size
    p = (1 + exceeding) / (1 + draws)
    for column, count in enumerate(kept.sum(axis=0)):
        if count <= _EXACT:
            p[column] = _enumerated(gaps[kept[:, column], column], observed[column])
    return p


def _enumerated(gaps: Float[np.ndarray, " q"], observed: float) -> float:
    if not len(gaps):
        return float("nan")
    sums = np.zeros(1)
    for value in gaps:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= observed))


def wilcoxon_test(differences: Float[np.ndarray, " q"]) -> float:
    """Two-sided Wilcoxon signed-rank test; the ranks of zeros are split between the signs.

    Returns:
        The p value; 1 where all differences are zero, NaN where there is none.
    """
    from scipy.stats import wilcoxon

    kept = np.asarray(differences, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan")
    if not kept.any():
        return 1.0
    # Left to itself SciPy enumerates permutations where few differences tie, which takes long.
    distinct = kept.all() and len(np.unique(np.abs(kept))) == len(kept)
    method = "exact" if distinct and len(kept) <= 50 else "asymptotic"
    return float(wilcoxon(kept, zero_method="zsplit", method=method).pvalue)  # type: ignore[union-attr]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): in rising order, (m - i) p, never falling.

    NaN stays NaN and does not count.
    """
    p = np.asarray(p_values, np.float64)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    corrected = np.full(len(p), np.nan)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = highest
    return corrected.tolist()


def paired_tests(
    values: Mapping[str, Float[np.ndarray, " q"]], seed: int = 0
) -> list[dict[str, Any]]:
    """Every two methods on the same queries: difference, interval, and p values.

    Args:
        values: by method, one value for each query in the same order.
        seed: of the bootstrap and the permutations.

    Returns:
        A row for each pair: a, b, difference (a minus b) with low and high, wins (queries where a
        is ahead), queries, p (sign flips), p_holm (corrected over the pairs), p_wilcoxon.
    """
    pairs = list(combinations(values, 2))
    if not pairs:
        return []
    columns = {name: np.asarray(value, np.float64) for name, value in values.items()}
    gaps = np.stack([columns[a] - columns[b] for a, b in pairs], axis=1)
    p = sign_flip_tests(gaps, seed).tolist()
    rows = []
    for i, ((a, b), corrected) in enumerate(zip(pairs, holm(p), strict=True)):
        gap = gaps[:, i]
        mean, low, high = mean_interval(gap, seed)
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": mean,
                "low": low,
                "high": high,
                "wins": int(np.count_nonzero(gap > 0)),
                "queries": int(np.count_nonzero(~np.isnan(gap))),
                "p": p[i],
                "p_holm": corrected,
                "p_wilcoxon": wilcoxon_test(gap),
            }
        )
    return rows
