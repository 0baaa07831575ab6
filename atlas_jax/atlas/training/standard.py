"""Standardised activations, and the way back to raw ones.

Each dimension's mean is removed and one scale makes E|x|^2 = d (or, with `per_dimension`, each
dimension gets variance 1). After training it is folded into the weights, so that the saved
autoencoder reads raw activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.atlas.sae import SAE
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.state import Weights
from atlas_jax.errors import InputError

_ROWS = 200_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Standard:
    """x -> (x - mean) * scale."""

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    @jax.jit
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Standardised activations, float32."""
        return (x.astype(jnp.float32) - self.mean[None]) * self.scale[None]


def measure(x: Float[np.ndarray, "n d"], per_dimension: bool) -> Standard:
    """Mean and scale of activations, from up to 400,000 of them.

    Raises:
        InputError: activations that are not finite, or do not vary.
    """
    sample = np.asarray(x[:: max(1, len(x) // _ROWS)], np.float32)
    mean = sample.mean(0, dtype=np.float64)
    variance = sample.var(0, dtype=np.float64)
    if not np.isfinite(variance).all() or not variance.any():
        raise InputError("Expected activations that are finite and vary, these do not.")
    if not per_dimension:
        variance = np.full_like(variance, variance.mean())
    scale = 1 / np.sqrt(np.maximum(variance, 1e-6 * variance.mean()))
    return Standard(jnp.asarray(mean.astype(np.float32)), jnp.asarray(scale.astype(np.float32)))


def fold(weights: Weights, standard: Standard, recipe: Recipe, theta: float = 0.0) -> SAE:
    """The same autoencoder on raw activations.

    W_enc = scale E^T n, b_enc = (b_e - mean (scale E^T)) n, W_dec = D / scale / n,
    b_dec = b_d / scale + mean, threshold = theta n, where n is the length of a row of D / scale, so
    that decoder rows get length one; with top_k n is the mean length, since its choice must not
    change.

    Args:
        weights: of the standardised activations.
        standard: how those were made.
        recipe: the architecture; batch_top_k becomes JumpReLU.
        theta: batch_top_k's threshold.
    """
    encoder, b_enc, decoder, b_dec = (
        np.asarray(a, np.float64)
        for a in (weights.encoder, weights.b_enc, weights.decoder, weights.b_dec)
    )
    mean, scale = (np.asarray(a, np.float64) for a in (standard.mean, standard.scale))
    raw = decoder / scale
    length = np.linalg.norm(raw, axis=1)
    length = np.where(length > 0, length, 1.0)
    top_k = recipe.architecture == "top_k"
    if top_k:
        length = np.full_like(length, length.mean())
    columns = encoder.T * scale[:, None]
    thresholds = np.full(len(length), theta)
    if weights.log_threshold is not None:
        thresholds = np.exp(np.asarray(weights.log_threshold, np.float64))

    def f32(a: np.ndarray) -> Array:
        return jnp.asarray(a.astype(np.float32))

    return SAE(
        W_enc=f32(columns * length),
        b_enc=f32((b_enc - mean @ columns) * length),
        W_dec=f32(raw / length[:, None]),
        b_dec=f32(b_dec / scale + mean),
        threshold=None if top_k else f32(thresholds * length),
        architecture="topk" if top_k else "jumprelu",
        k=recipe.k if top_k else None,
    )
