"""Steering: scores of a query become an edit of the forward pass."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float

from atlas_jax.errors import InputError
from atlas_jax.models.sites import Edit


def steer(site: str, scores: Array | np.ndarray, strength: float) -> Edit:
    """An edit that moves a site's activations along a query and keeps their norm.

    a <- (a + lambda s) ||a|| / ||a + lambda s||   (eq. 4)

    Args:
        site: the site that the translation was fitted on.
        scores: s (d_s,), eq. 3.
        strength: lambda; 0 leaves the model's output bit for bit, negative values steer away.

    Raises:
        InputError: scores or a strength that are not finite.
    """
    vector = np.asarray(scores, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not np.isfinite(strength):
        raise InputError(
            f"Expected a finite strength and a vector of finite scores, got {strength} and shape "
            f"{vector.shape}."
        )
    return Edit(site, vector, float(strength))


def random_scores(width: int, norm: float, seed: int = 0) -> Float[np.ndarray, " ds"]:
    """A Gaussian direction of a given norm: the baseline of steering."""
    vector = np.random.default_rng(seed).standard_normal(width)
    return (vector * (norm / np.linalg.norm(vector))).astype(np.float32)
