"""The three activation functions that can be trained: which features a token uses.

    top_k         f = relu(z) where z is one of the k largest of its token
    batch_top_k   f = relu(z) where z is one of the k n largest of all n tokens
    jumprelu      f = z where z > theta, one threshold per feature

Top-k is that of Gao et al. 2024, batch-top-k that of Bussmann, Leask and Nanda 2024, JumpReLU that
of Rajamanoharan et al. 2024. Here a token uses at most `cap` features, so that a step may touch
chosen features only; with cap = F all three are as published.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.state import Weights

Chosen = tuple[Array, Array]
Chooser = Callable[[Weights, Array, Recipe, str | None], Chosen]


def top_k(
    weights: Weights, z: Float[Array, "n F"], recipe: Recipe, axis: str | None
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """The k largest of each token."""
    values, indices = lax.top_k(jax.nn.relu(z), recipe.k)
    return values, indices


def batch_top_k(
    weights: Weights, z: Float[Array, "n F"], recipe: Recipe, axis: str | None
) -> tuple[Float[Array, "n cap"], Int[Array, "n cap"]]:
    """The k n largest of the batch, those of other devices included."""
    values, indices = lax.top_k(jax.nn.relu(z), recipe.slots)
    every = values if axis is None else lax.all_gather(values, axis, tiled=True)
    flat = jnp.sort(every.reshape(-1))
    least = flat[flat.size - min(recipe.k * every.shape[0], flat.size)]
    return jnp.where(values >= least, values, 0.0), indices


def jumprelu(
    weights: Weights, z: Float[Array, "n F"], recipe: Recipe, axis: str | None
) -> tuple[Float[Array, "n cap"], Int[Array, "n cap"]]:
    """Those above their threshold; slots left over hold the ones that come closest to it."""
    assert weights.log_threshold is not None
    above, indices = lax.top_k(z - jnp.exp(weights.log_threshold)[None], recipe.slots)
    values = jnp.take_along_axis(z, indices, axis=1)
    return jnp.where(above > 0, values, 0.0), indices


CHOOSERS: dict[str, Chooser] = {"batch_top_k": batch_top_k, "top_k": top_k, "jumprelu": jumprelu}


def threshold_gradient(
    log_threshold: Float[Array, " F"],
    z: Float[Array, "n F"],
    indices: Int[Array, "n cap"],
    inner: Float[Array, "n cap"],
    l0: Float[Array, ""],
    penalty: Float[Array, ""],
    recipe: Recipe,
    tokens: int,
) -> Float[Array, " F"]:
    """The straight-through gradient of log theta, of reconstruction and of sparsity.

        d f / d theta = -(theta / w) K((z - theta) / w),   d H / d theta = -(1 / w) K(...)
        sparsity = s (L0 / k - 1)^2,   L0 = mean_n sum_i H(z_i - theta_i)

    H is the step function, K = 1 on [-1/2, 1/2], w the bandwidth: equations 11 and 12 of
    Rajamanoharan et al. 2024, with the penalty of their appendix that aims at an L0, here that of
    the batch.

    Args:
        log_threshold: log theta.
        z: pre-activations.
        indices: features of the slots.
        inner: dL / df of the slots; features in no slot are taken to have none.
        l0: L0 of the whole batch.
        penalty: s.
        recipe: k and the bandwidth.
        tokens: n, of all devices.
    """
    theta = jnp.exp(log_threshold)
    kernel = (jnp.abs(z - theta[None]) < recipe.bandwidth / 2).astype(jnp.float32)
    # L0 changes by -K / (w n) with theta.
    slope = 2 * penalty * (l0 / recipe.k - 1) / recipe.k
    sparsity = -slope * jnp.sum(kernel, axis=0) / (recipe.bandwidth * tokens)
    near = jnp.take_along_axis(kernel, indices, axis=1)
    flat = indices.reshape(-1)
    pushed = jnp.zeros(theta.shape).at[flat].add((near * inner).reshape(-1))
    return theta * (sparsity - theta * pushed / recipe.bandwidth)
