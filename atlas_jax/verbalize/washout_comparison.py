"""Washouts compared on the same features: is there less quirk, and no less meaning?

A washout takes quirks away where Q1, Q2 and Q3 are not higher and Q4 is not lower than without it,
one of them is better, and neither Q5 (double-centred lift) nor Q6 (nuance) is lower by more than a
margin that is stated first (see `quirks`). A lower Q6 with a higher Q4 is nuance lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_jax.errors import InputError
from atlas_jax.verbalize.lift import (
    bootstrap_lift,
    bootstrap_mean,
    holm,
    lift_dc,
    retrieval,
    sign_flip_test,
    similarity,
)
from atlas_jax.verbalize.quirks import not_lower, nuance, quirk_figures
from atlas_jax.verbalize.said import embed_said
from atlas_jax.verbalize.verbalizer import Verbalizer
from atlas_jax.verbalize.washout import BARE, Background, Washout

ANGLES = (25.0, 45.0, 60.0, 75.0, 90.0)
_QUIRKS = {"cjk": -1, "untagged": -1, "repeated": -1, "genericness": -1, "leakage": -1}
_QUIRKS |= {"stability": 1}
_FIGURES = (*_QUIRKS, "empty", "nuance", "nuance_pairs")


def usual_washouts(background: Background) -> dict[str, Washout]:
    """Bare, A from half the natural angle to 90 degrees, B and C."""
    natural = background.angle
    found = {"bare": BARE, "A half natural": Washout(angle=natural / 2), "A natural": Washout()}
    found |= {f"A {angle:g} degrees": Washout(angle=angle) for angle in ANGLES}
    found["B omega 1"] = Washout(omega=1.0)
    members = min(8, len(background.rows))
    return found | {f"C {members} members": Washout(members=members, omega=0.5)}


def compare_washouts(
    mapped: Float[np.ndarray, "n q"],
    directions: Float[np.ndarray, "n p"],
    native: Float[np.ndarray, "r n e"],
    foreign: Verbalizer,
    embedder: Any,
    washouts: Mapping[str, Washout],
    how: Mapping[str, Any],
    margin: float = 0.02,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Figures of each washout, and how each differs from the first one, feature by feature.

    Args:
        mapped: directions of the model that the verbalizer reads.
        directions: those of the source, whose neighbours nuance is measured on.
        native: embedded native explanations.
        foreign: the verbalizer.
        embedder: texts to unit vectors.
        washouts: by name; the first one is what the others are compared with.
        how: of `explain_all`.
        margin: by how much lift and nuance may be lower; state it before you look.
        draws: of the bootstraps and of the sign flips.
        seed: of what is drawn.

    Returns:
        By name: cosine to the background, lift_spec, lift_dc, top-1 and the quirks; and `against`,
        with the differences, their one-sided lower bounds, p of a larger lift adjusted by Holm's
        steps, and whether quirks were taken away (None where one of the measures is not known).

    Raises:
        InputError: fewer than two washouts.
    """
    if len(washouts) < 2:
        raise InputError(f"Expected at least two washouts to compare, got {len(washouts)}.")
    found: dict[str, dict[str, Any]] = {}
    lifts, pairs = {}, {}
    for name, washout in washouts.items():
        said = foreign.explain_all(mapped, washout, **how)
        embedded = embed_said(embedder, said)
        s = similarity(embedded, native)
        lifts[name], pairs[name] = lift_dc(s), nuance(s, directions)
        quirks = quirk_figures(foreign, said, embedded, s, directions, embedder)
        found[name] = {
            "cosine_to_background": float(np.mean([row[0].cosine for row in said])),
            "lift_spec": bootstrap_lift(s, draws, seed)._asdict(),
            "lift_dc": bootstrap_mean(lifts[name], draws, seed)._asdict(),
            "top1": float(retrieval(s)[0].mean()),
            **{key: quirks[key] for key in _FIGURES if key in quirks},
        }
    first, *others = washouts
    for name in others:
        low, kept = not_lower(lifts[name], lifts[first], margin, draws, seed)
        against: dict[str, Any] = {
            "lift_difference": float((lifts[name] - lifts[first]).mean()),
            "lift_low": low,
            "lift_kept": kept,
            "p": sign_flip_test(lifts[name] - lifts[first], draws, seed),
        }
        if len(pairs[name]):
            low, fine = not_lower(pairs[name], pairs[first], margin, draws, seed)
            against |= {"nuance_low": low, "nuance_kept": fine}
        against["quirks_taken"] = _taken(found[name], found[first], against)
        found[name]["against"] = against
    adjusted = holm([found[name]["against"]["p"] for name in others])
    for name, p in zip(others, adjusted, strict=True):
        found[name]["against"]["p_holm"] = p
    return found


def _taken(
    here: Mapping[str, Any], there: Mapping[str, Any], against: Mapping[str, Any]
) -> bool | None:
    """Whether quirks are fewer and the meaning kept; None: not all is known."""
    gains = [
        sign * (here.get(key, np.nan) - there.get(key, np.nan)) for key, sign in _QUIRKS.items()
    ]
    kept = [against["lift_kept"], against.get("nuance_kept")]
    if np.nanmin(gains) < 0 or False in kept:
        return False
    if np.isnan(gains).any() or None in kept:
        return None
    return max(gains) > 0
