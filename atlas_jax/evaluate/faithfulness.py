"""Faithfulness of steering (eq. 5), and the change of activation that goes with it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Int8

PRESENT, ABSENT = 2, 0


def shares(
    ratings: Int8[np.ndarray, "*rest prompts"], weights: Float[np.ndarray, "draws prompts"]
) -> Float[np.ndarray, "draws *rest"]:
    """r: the weighted share of texts rated present, among those rated present or absent.

    A vague text (1) counts for neither side, as in the paper; nor does one without a rating (-1).
    NaN where nothing is left.
    """
    present = np.tensordot(weights, (ratings == PRESENT).astype(np.float64), (1, -1))
    absent = np.tensordot(weights, (ratings == ABSENT).astype(np.float64), (1, -1))
    total = present + absent
    return np.where(total > 0, present / np.where(total > 0, total, 1.0), np.nan)


def gains(
    r: Float[np.ndarray, "*rest strengths"], unsteered: int
) -> Float[np.ndarray, "*rest strengths"]:
    """(r - r_0) / (1 - r_0) x 100 at each strength; NaN where r_0 = 1 leaves no room."""
    base = r[..., unsteered : unsteered + 1]
    room = np.where(base < 1, 1 - base, np.nan)
    return 100 * (r - base) / room


def best_strength(
    gain: Float[np.ndarray, "*rest strengths"], strengths: Float[np.ndarray, " strengths"]
) -> Int[np.ndarray, "*rest"]:
    """Index of the largest gain; among equals the weakest strength, so 0 where nothing helps."""
    order = np.lexsort((-strengths, np.abs(strengths)))
    ranked = np.where(np.isnan(gain), -np.inf, gain)[..., order]
    return order[np.argmax(ranked, axis=-1)]


def at_strength(
    values: Float[np.ndarray, "*rest strengths"], index: Int[np.ndarray, "*rest"]
) -> Float[np.ndarray, "*rest"]:
    """Of each row, the value at the row's own strength."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def faithfulness(
    ratings: Int8[np.ndarray, "queries strengths prompts"],
    strengths: Float[np.ndarray, " strengths"],
    weights: Float[np.ndarray, "draws prompts"],
) -> tuple[Float[np.ndarray, "draws queries"], Int[np.ndarray, "draws queries"]]:
    """max_i (r_i - r_0) / (1 - r_0) x 100   (eq. 5), and the index of that strength.

    The maximum over strengths is taken on the texts that it is measured on, so it is above 0 even
    for directions that mean nothing: compare it with random directions, or see `held_out`.
    """
    unsteered = int(np.flatnonzero(strengths == 0)[0])
    gain = gains(shares(ratings, weights), unsteered)
    index = best_strength(gain, strengths)
    return at_strength(gain, index), index


def held_out(
    ratings: Int8[np.ndarray, "queries strengths prompts"],
    strengths: Float[np.ndarray, " strengths"],
    weights: Float[np.ndarray, "draws prompts"],
) -> Float[np.ndarray, "draws queries"]:
    """Faithfulness whose strength was chosen on other prompts: on every second one, and vice versa.

    (r_i - r_0) / (1 - r'_0) x 100, with i and r'_0 of the one half A of the prompts and r of the
    other half B, and the halves exchanged; the mean of the two. What B adds is then independent of
    all that was taken from A, so the expectation is 0 for directions that mean nothing: with r_0 of
    B below as well, it would be less. NaN with fewer than two prompts.
    """
    unsteered = int(np.flatnonzero(strengths == 0)[0])
    even = (np.arange(ratings.shape[-1]) % 2 == 0).astype(np.float64)[None]
    halves = [shares(ratings, weights * half) for half in (even, 1 - even)]
    parts = []
    for chosen, measured in (halves, halves[::-1]):
        best = best_strength(gains(chosen, unsteered), strengths)
        room = np.where(chosen[..., unsteered] < 1, 1 - chosen[..., unsteered], np.nan)
        gain = at_strength(measured, best) - measured[..., unsteered]
        parts.append(100 * gain / room)
    return (parts[0] + parts[1]) / 2


def activation_change(
    activations: Float[np.ndarray, "queries strengths prompts"],
    strengths: Float[np.ndarray, " strengths"],
    weights: Float[np.ndarray, "draws prompts"],
) -> Float[np.ndarray, "draws queries strengths"]:
    """Mean over prompts of a(steered) - a(unsteered), at each strength."""
    unsteered = int(np.flatnonzero(strengths == 0)[0])
    change = activations - activations[:, unsteered : unsteered + 1]
    total = np.tensordot(weights, change, (1, -1))
    return total / weights.sum(axis=1)[:, None, None]
