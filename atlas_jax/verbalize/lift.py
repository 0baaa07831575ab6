"""Lift: how much better explanations match those of the same feature than those of others.

s_ij is the mean cosine of the embedded explanations of feature i by the foreign verbalizer and of
feature j by the native one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from atlas_jax.errors import InputError


class Estimate(NamedTuple):
    """A mean over features with its bootstrap interval."""

    mean: float
    low: float
    high: float


class Permutation(NamedTuple):
    """A permutation test of which text belongs to which feature.

    Attributes:
        p: (1 + number of permutations at least as large) / (1 + permutations).
        z: (T - E) / sd in closed form.
        expected: E of T = mean_f s_f,pi(f): the grand mean.
        sd: its standard deviation, sqrt(sum d_ij^2 / (n - 1)) / n, d double-centred.
    """

    p: float
    z: float
    expected: float
    sd: float


def similarity(
    foreign: Float[np.ndarray, "s m e"], native: Float[np.ndarray, "r n e"]
) -> Float64[np.ndarray, "m n"]:
    """s_ij over all pairs of samples; embeddings are unit vectors."""
    return foreign.astype(np.float64).mean(axis=0) @ native.astype(np.float64).mean(axis=0).T


def lift_spec(s: Float[np.ndarray, "n n"]) -> Float64[np.ndarray, " n"]:
    """s_ff less the mean of its row: how specific the explanation is to the feature (headline)."""
    n = _size(s, 2)
    own = np.diag(s)
    return own - (s.sum(axis=1) - own) / (n - 1)


def lift_rand(
    s: Float[np.ndarray, "n n"], random: Float[np.ndarray, "r n"]
) -> Float64[np.ndarray, " n"]:
    """s_ff less the mean similarity of random directions' explanations to feature f's."""
    return np.diag(s) - random.mean(axis=0)


def lift_dc(s: Float[np.ndarray, "n n"]) -> Float64[np.ndarray, " n"]:
    """s_ff double-centred over the others: neither a foreign nor a native text that resembles all
    others counts. Its mean is that of `lift_spec`."""
    n = _size(s, 3)
    own = np.diag(s)
    row, column = s.sum(axis=1) - own, s.sum(axis=0) - own
    rest = (s.sum() - own.sum() - row - column) / ((n - 1) * (n - 2))
    return own - row / (n - 1) - column / (n - 1) + rest


def retrieval(s: Float[np.ndarray, "n n"]) -> tuple[Float64[np.ndarray, " n"], ...]:
    """Whether each foreign text is nearest to its own native text, and its reciprocal rank; of n
    ties each counts as an equal share. Chance is 1 / n."""
    own = np.diag(s)[:, None]
    above, equal = (s > own).sum(axis=1), (s == own).sum(axis=1)
    top = np.where(above == 0, 1.0 / equal, 0.0)
    ranks = [np.mean(1.0 / (a + np.arange(1, e + 1))) for a, e in zip(above, equal, strict=True)]
    return top, np.array(ranks)


def bootstrap_lift(
    s: Float[np.ndarray, "n n"], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean lift_spec with a percentile bootstrap over features, rows and columns together.

    A feature drawn twice is no mismatch of itself: pairs with one original are masked, without
    which the bootstrap is biased low.
    """
    n = _size(s, 3)
    rng = np.random.default_rng(seed)
    own, values = np.diag(s), []
    for _ in range(draws):
        count = np.bincount(rng.integers(n, size=n), minlength=n).astype(float)
        others = np.outer(count, count)
        np.fill_diagonal(others, 0)
        if others.any():
            values.append(count @ own / n - (others * s).sum() / others.sum())
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(lift_spec(s).mean()), float(low), float(high))


def bootstrap_mean(
    values: Float[np.ndarray, " n"], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean with a percentile bootstrap over features."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def permutation_test(
    s: Float[np.ndarray, "n n"],
    draws: int = 9999,
    seed: int = 0,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Permutation:
    """Tests that native texts match their own features, against all ways to hand them out.

    With `clusters`, texts change hands only within one: a match beyond topic.
    """
    n = _size(s, 2)
    rng, own = np.random.default_rng(seed), float(np.diag(s).mean())
    rows, at_least = np.arange(n), 0
    groups = [rows] if clusters is None else [np.flatnonzero(clusters == c) for c in set(clusters)]
    for _ in range(draws):
        order = rows.copy()
        for group in groups:
            order[group] = rng.permutation(group)
        at_least += s[rows, order].mean() >= own - 1e-12
    expected, variance = 0.0, 0.0
    for group in groups:
        block = s[np.ix_(group, group)]
        expected += block.mean() * len(group) / n
        centred = block - block.mean(axis=0) - block.mean(axis=1)[:, None] + block.mean()
        variance += (centred**2).sum() / max(len(group) - 1, 1) / n**2
    sd = float(np.sqrt(variance))
    z = (own - expected) / sd if sd > 0 else 0.0
    return Permutation((1 + at_least) / (1 + draws), float(z), float(expected), sd)


def noise_ceiling(native: Float[np.ndarray, "r n e"]) -> float:
    """The lift of native explanations against further samples of themselves; NaN for one sample.

    mean cos(B_f^1, B_f^2) - mean over f != j of cos(B_f^1, B_j^2), over pairs of samples
    """
    samples = native.astype(np.float64)
    found = [
        lift_spec(samples[a] @ samples[b].T).mean()
        for a in range(len(samples))
        for b in range(len(samples))
        if a != b
    ]
    return float(np.mean(found)) if found else float("nan")


def topic_clusters(
    native: Float[np.ndarray, "r n e"], count: int, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Features grouped by what their native explanations are about (k-means)."""
    from sklearn.cluster import KMeans

    rows = native.astype(np.float64).mean(axis=0)
    found = KMeans(count, n_init=10, random_state=seed)  # type: ignore[arg-type]
    return found.fit_predict(rows).astype(np.int64)


def sign_flip_test(differences: Float[np.ndarray, " n"], draws: int = 9999, seed: int = 0) -> float:
    """p that the mean paired difference is above zero, by flips of the signs."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size=(draws, len(differences)))
    flipped = (signs * differences).mean(axis=1)
    return float((1 + (flipped >= differences.mean() - 1e-12).sum()) / (1 + draws))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted by Holm's steps."""
    order = np.argsort(p)
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def _size(s: np.ndarray, least: int) -> int:
    if len(s) < least:
        raise InputError(f"Expected at least {least} features to compare, got {len(s)}.")
    return len(s)
