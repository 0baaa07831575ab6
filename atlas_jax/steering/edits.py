"""Edits out of scores: at one site, or at every site that a query was translated to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from atlas_jax.errors import InputError
from atlas_jax.models.sites import MODES, Edit

_LARGEST = 1e16


def steer(site: str, scores: Array | np.ndarray, strength: float, mode: str = "steer") -> Edit:
    """An edit that moves a site's activations along a query and keeps their norm.

    a <- (a + lambda s) ||a|| / ||a + lambda s||   (eq. 4)

    Args:
        site: the site that the translation was fitted on.
        scores: s (d_s,): eq. 3, or any other direction (see `directions`).
        strength: lambda; 0 leaves the model's output bit for bit, negative values steer away.
        mode: `steer` (eq. 4), `add` (a + lambda s), `ablate` (takes lambda times the component
            along s out) or `clamp` (sets that component to lambda).

    A vector of zeros has no direction, and changes nothing in any mode.

    Raises:
        InputError: scores or a strength that are not finite or too large, or an unknown mode.
    """
    vector = np.asarray(scores, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not np.isfinite(strength):
        raise InputError(
            f"Expected a finite strength and a vector of finite scores, got {strength} and shape "
            f"{vector.shape}."
        )
    moved = float(np.abs(vector).max(initial=0)) * max(abs(strength), 1.0)
    if moved > _LARGEST:
        raise InputError(
            f"Expected an edit of at most {_LARGEST:g} in any feature, got {moved:g}: the length "
            "of the activations would not fit into float32."
        )
    if mode not in MODES:
        raise InputError(f"Expected a mode among {', '.join(MODES)}, got '{mode}'.")
    return Edit(site, vector, float(strength), mode)


def steer_query(
    translations: Mapping[str, Any],
    query: Any,
    strength: float | Mapping[str, float],
    mode: str = "steer",
) -> list[Edit]:
    """The edits that steer along a query at several sites at once.

    Args:
        translations: {site: Translation}.
        query: a `Query` of their atlas, or its vector (d_c,).
        strength: lambda of all sites, or of each.
        mode: see `steer`.

    Raises:
        InputError: a query of another atlas, or a site without a strength.
    """
    strengths = strength if isinstance(strength, Mapping) else dict.fromkeys(translations, strength)
    missing = [site for site in translations if site not in strengths]
    if missing:
        raise InputError(f"Expected a strength for each site, got none for {', '.join(missing)}.")
    return [steer(site, t.scores(query), strengths[site], mode) for site, t in translations.items()]
