"""One training step.

    z = x E^T + b_e                  x: standardised activations (n, d); E, D: (F, d), |D_i| = 1
    f = activation(z)                see `activations`
    loss = mean_n |x - (f D + b_d)|^2 / d + alpha |e - e_aux|^2 / |e|^2  [+ jumprelu's penalty]

e = x - x_hat, held constant, and e_aux is its reconstruction by the features that have been silent
for long: the auxiliary loss of Gao et al. 2024, which revives dead features; here it sees the
`aux_features` longest silent ones only. All products but the encoder's touch chosen features only
(see `slots`). Over a mesh each device takes its share of the batch and holds all weights; what is
a sum over tokens is summed over the devices.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.atlas.training.activations import CHOOSERS, threshold_gradient
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.slots import encode_all, gradient, product, reconstruct
from atlas_jax.atlas.training.state import State, Weights, unit

_THRESHOLD_PACE = 8.0
"""Adam moves log theta by no more than the learning rate in a step; too slow for a short training,
in which encoder rows double in length."""


@partial(jax.jit, static_argnames=("recipe", "steps", "mesh"), donate_argnames=("state",))
def update(
    state: State, x: Float[Array, "n d"], recipe: Recipe, steps: int, mesh: Mesh | None = None
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One step on a batch of standardised activations, over the mesh's `data` axis if there is one.

    Returns:
        The next state, and loss, active (features per token), smallest (active value) and dead
        (share of the features).
    """
    if mesh is None:
        return _update(state, x, recipe, steps, None)
    whole = PartitionSpec()
    return jax.shard_map(
        lambda s, part: _update(s, part, recipe, steps, "data"),
        mesh=mesh,
        in_specs=(whole, PartitionSpec("data")),
        out_specs=whole,
        check_vma=False,
    )(state, x)


def _update(
    state: State, x: Float[Array, "n d"], recipe: Recipe, steps: int, axis: str | None
) -> tuple[State, dict[str, Float[Array, ""]]]:
    def total(value: Array) -> Array:
        return value if axis is None else lax.psum(value, axis)

    tokens = x.shape[0] * (1 if axis is None else lax.axis_size(axis))
    weights = state.weights
    low = x.astype(recipe.compute)
    encoder, decoder = (a.astype(recipe.compute) for a in (weights.encoder, weights.decoder))
    z = encode_all(low, encoder, weights.b_enc)
    values, indices = CHOOSERS[recipe.architecture](weights, z, recipe, axis)
    error = x - reconstruct(decoder, weights.b_dec, values, indices)
    squares = total(jnp.sum(error**2))
    l0 = total(jnp.sum((values > 0).astype(jnp.float32))) / tokens
    g = error * (-2.0 / (tokens * x.shape[1]))
    d_encoder, d_bias, d_decoder, inner = gradient(x, g, decoder, values, indices)
    grads = Weights(d_encoder, d_bias, d_decoder, jnp.sum(g, axis=0))
    if weights.log_threshold is not None:
        rise = state.step.astype(jnp.float32) / recipe.phases(steps)[0]
        penalty = recipe.sparsity * jnp.minimum(rise, 1.0)
        moved = threshold_gradient(
            weights.log_threshold, z, indices, inner, l0, penalty, recipe, tokens
        )
        grads = replace(grads, log_threshold=moved)
    if recipe.aux_weight:
        grads = lax.cond(
            jnp.max(state.silent) > recipe.dead_after,
            lambda: jax.tree.map(
                jnp.add, grads, revive(weights, low, error, squares, state.silent, recipe)
            ),
            lambda: grads,
        )
    weights, moments = _move(state, jax.tree.map(total, grads), recipe, steps)
    fired: Bool[Array, " F"] = (
        jnp.zeros(state.silent.shape, bool).at[indices.reshape(-1)].max(values.reshape(-1) > 0)
    )
    fired = total(fired.astype(jnp.int32)) > 0
    silent = jnp.where(fired, 0, state.silent + jnp.int32(tokens))
    smallest = jnp.min(jnp.where(values > 0, values, jnp.inf))
    report = {
        "loss": squares / (tokens * x.shape[1]),
        "active": l0,
        "smallest": smallest if axis is None else lax.pmin(smallest, axis),
        "dead": jnp.mean((silent > recipe.dead_after).astype(jnp.float32)),
    }
    return State(weights, moments, silent, state.step + 1), report


def _move(state: State, grads: Weights, recipe: Recipe, steps: int) -> tuple[Weights, Any]:
    """Adam, along the sphere for decoder rows: they keep length one."""
    weights = state.weights
    along = jnp.sum(grads.decoder * weights.decoder, axis=1, keepdims=True)
    grads = replace(grads, decoder=grads.decoder - along * weights.decoder)
    # optax mixes its integer step count with floats.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = recipe.optimizer(steps).update(grads, state.optimizer)  # type: ignore[arg-type]
        change, moments = cast("tuple[Weights, Any]", found)
        if change.log_threshold is not None:
            change = replace(change, log_threshold=_THRESHOLD_PACE * change.log_threshold)
        moved: Weights = optax.apply_updates(weights, change)  # type: ignore
    return replace(moved, decoder=unit(moved.decoder)), moments


def revive(
    weights: Weights,
    x: Float[Array, "n d"],
    error: Float[Array, "n d"],
    squares: Float[Array, ""],
    silent: Int[Array, " F"],
    recipe: Recipe,
) -> Weights:
    """The gradient of alpha |e - e_aux|^2 / |e|^2 over the longest silent features.

    Args:
        weights: of the step.
        x: the batch, in the dtype of the products.
        error: e, of these tokens.
        squares: |e|^2, of all devices.
        silent: tokens since each feature was last active.
        recipe: how many features the loss sees, and how many a token may use.
    """
    count = min(recipe.aux_features, silent.shape[0])
    age, rows = lax.top_k(silent, count)
    dead = age > recipe.dead_after

    def loss(parts: tuple[Array, Array, Array]) -> Array:
        encoder, b_enc, decoder = parts
        z = product(x, encoder.astype(x.dtype).T) + b_enc[None]
        z = jnp.where(dead[None], jax.nn.relu(z), 0.0)
        least = lax.top_k(lax.stop_gradient(z), min(recipe.aux_k, count))[0][:, -1:]
        chosen = jnp.where(z >= least, z, 0.0)
        rest = error - product(chosen.astype(x.dtype), decoder.astype(x.dtype))
        return recipe.aux_weight * jnp.sum(rest**2) / squares

    parts = (weights.encoder[rows], weights.b_enc[rows], weights.decoder[rows])
    encoder, b_enc, decoder = jax.grad(loss)(parts)
    zero = jax.tree.map(jnp.zeros_like, weights)
    return replace(
        zero,
        encoder=zero.encoder.at[rows].add(encoder),
        b_enc=zero.b_enc.at[rows].add(b_enc),
        decoder=zero.decoder.at[rows].add(decoder),
    )
