"""One training step of a batch-top-k sparse autoencoder (Bussmann, Leask and Nanda 2024).

    z = x E^T + b_e                  x: standardised activations (n, d); E, D: (F, d), |D_i| = 1
    f = relu(z) where z is one of the k n largest of the batch, else 0
    loss = mean_n |x - (f D + b_d)|^2 / d + alpha |e - e_aux|^2 / |e|^2

e = x - x_hat, held constant, and e_aux is its reconstruction by the features that have been silent
for long: the auxiliary loss of Gao et al. 2024, which revives dead features. Two departures from
those papers, both for speed: a token uses at most `cap` features (the k n largest are chosen among
the `cap` largest of each token), and the auxiliary loss sees the `aux_features` longest silent
features, `aux_k` of them on a token. All products but the encoder's then touch chosen features
only, so a step costs one dense matrix product instead of five.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.atlas.sae import matmul


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        n_features: F.
        k: features per token, on average.
        cap: features per token, at most.
        batch: tokens per step.
        epochs: passes over the training tokens.
        rate: peak learning rate of Adam.
        warmup: share of the steps over which the rate rises.
        decay: share of the steps over which the rate falls to zero.
        aux_weight: alpha.
        aux_features: how many silent features the auxiliary loss sees.
        aux_k: how many of those a token may use.
        dead_after: tokens of silence that make a feature dead.
        per_dimension: divide each dimension by its own deviation, not all by one scale.
        seed: of initialisation and shuffling.
    """

    n_features: int = 4096
    k: int = 32
    cap: int = 64
    batch: int = 2048
    epochs: float = 3.0
    rate: float = 2.5e-3
    warmup: float = 0.03
    decay: float = 0.4
    aux_weight: float = 1 / 32
    aux_features: int = 256
    aux_k: int = 32
    dead_after: int = 100_000
    per_dimension: bool = False
    seed: int = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """The autoencoder of standardised activations; a feature is a row of encoder and decoder."""

    encoder: Float[Array, "F d"]
    b_enc: Float[Array, " F"]
    decoder: Float[Array, "F d"]
    b_dec: Float[Array, " d"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything a step changes.

    Attributes:
        silent: tokens since each feature was last active.
    """

    weights: Weights
    optimizer: Any
    silent: Int[Array, " F"]
    step: Int[Array, ""]


def init(width: int, recipe: Recipe, steps: int) -> State:
    """Random decoder rows, and E = D / 2, so that the first reconstructions do not overshoot."""
    shape = (recipe.n_features, width)
    decoder = unit(jax.random.normal(jax.random.key(recipe.seed), shape))
    weights = Weights(decoder / 2, jnp.zeros(shape[0]), decoder, jnp.zeros(width))
    return State(
        weights,
        optimizer(recipe, steps).init(weights),  # type: ignore[arg-type]
        jnp.zeros(shape[0], jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Adam; the rate rises, stays, and falls linearly to zero."""
    rise, fall = max(1, round(recipe.warmup * steps)), max(1, round(recipe.decay * steps))
    return optax.adam(
        optax.join_schedules(
            [
                optax.linear_schedule(recipe.rate / rise, recipe.rate, rise),
                optax.constant_schedule(recipe.rate),
                optax.linear_schedule(recipe.rate, 0.0, fall),
            ],
            [rise, max(rise, steps - fall)],
        )
    )


def unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length one; a zero row stays zero."""
    norm = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norm > 0, norm, 1.0)


def choose(
    weights: Weights, x: Float[Array, "n d"], k: int, cap: int
) -> tuple[Float[Array, "n cap"], Int[Array, "n cap"], Float[Array, ""]]:
    """Values (0: not chosen) and indices of the chosen features, and the smallest chosen value."""
    z = matmul(x, lax.optimization_barrier(weights.encoder.T)) + weights.b_enc[None]
    values, indices = lax.top_k(jax.nn.relu(z), cap)
    flat = jnp.sort(values.reshape(-1))
    least = flat[flat.size - min(k * x.shape[0], flat.size)]
    chosen = jnp.where(values >= least, values, 0.0)
    smallest = jnp.min(jnp.where(chosen > 0, chosen, jnp.inf))
    return chosen, indices, smallest


def reconstruct(
    weights: Weights, values: Float[Array, "n cap"], indices: Int[Array, "n cap"]
) -> Float[Array, "n d"]:
    """f D + b_d from the chosen features only."""

    def add(slot: Array, total: Array) -> Array:
        value = lax.dynamic_index_in_dim(values, slot, 1)
        return total + value * weights.decoder[lax.dynamic_index_in_dim(indices, slot, 1, False)]

    start = jnp.broadcast_to(weights.b_dec[None], (values.shape[0], weights.b_dec.shape[0]))
    return lax.fori_loop(0, values.shape[1], add, start)


def gradient(
    weights: Weights,
    x: Float[Array, "n d"],
    values: Float[Array, "n cap"],
    indices: Int[Array, "n cap"],
) -> tuple[Weights, Float[Array, "n d"]]:
    """The gradient of mean_n |x - x_hat|^2 / d, and the error e = x - x_hat.

    With g = -2 e / (n d): dD_i = sum f_i g; df_i = g . D_i where i is chosen; dE_i = sum df_i x.
    """
    error = x - reconstruct(weights, values, indices)
    g = error * (-2.0 / error.size)

    def add(slot: Array, grads: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        encoder, b_enc, decoder = grads
        value = lax.dynamic_index_in_dim(values, slot, 1, False)
        index = lax.dynamic_index_in_dim(indices, slot, 1, False)
        inner = jnp.where(value > 0, jnp.sum(g * weights.decoder[index], axis=1), 0.0)
        return (
            encoder.at[index].add(inner[:, None] * x),
            b_enc.at[index].add(inner),
            decoder.at[index].add(value[:, None] * g),
        )

    zeros = jax.tree.map(jnp.zeros_like, (weights.encoder, weights.b_enc, weights.decoder))
    encoder, b_enc, decoder = lax.fori_loop(0, values.shape[1], add, zeros)
    return Weights(encoder, b_enc, decoder, jnp.sum(g, axis=0)), error


def revive(
    weights: Weights,
    x: Float[Array, "n d"],
    error: Float[Array, "n d"],
    silent: Int[Array, " F"],
    recipe: Recipe,
) -> Weights:
    """The gradient of alpha |e - e_aux|^2 / |e|^2 over the longest silent features."""
    count = min(recipe.aux_features, silent.shape[0])
    age, rows = lax.top_k(silent, count)
    dead = age > recipe.dead_after

    def loss(parts: tuple[Array, Array, Array]) -> Array:
        encoder, b_enc, decoder = parts
        z = jnp.where(dead[None], jax.nn.relu(matmul(x, encoder.T) + b_enc[None]), 0.0)
        least = lax.top_k(lax.stop_gradient(z), min(recipe.aux_k, count))[0][:, -1:]
        rest = error - matmul(jnp.where(z >= least, z, 0.0), decoder)
        return recipe.aux_weight * jnp.sum(rest**2) / jnp.sum(error**2)

    parts = (weights.encoder[rows], weights.b_enc[rows], weights.decoder[rows])
    encoder, b_enc, decoder = jax.grad(loss)(parts)
    zero = jax.tree.map(jnp.zeros_like, weights)
    return Weights(
        zero.encoder.at[rows].add(encoder),
        zero.b_enc.at[rows].add(b_enc),
        zero.decoder.at[rows].add(decoder),
        zero.b_dec,
    )


@partial(jax.jit, static_argnames=("recipe", "steps"), donate_argnames=("state",))
def update(
    state: State, x: Float[Array, "n d"], recipe: Recipe, steps: int
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One step on a batch of standardised activations."""
    weights = state.weights
    values, indices, smallest = choose(weights, x, recipe.k, recipe.cap)
    grads, error = gradient(weights, x, values, indices)
    dead = jnp.max(state.silent) > recipe.dead_after
    grads = lax.cond(
        dead,
        lambda: jax.tree.map(jnp.add, grads, revive(weights, x, error, state.silent, recipe)),
        lambda: grads,
    )
    # Only the part of a row's gradient along the sphere counts: the rows keep length one.
    along = jnp.sum(grads.decoder * weights.decoder, axis=1, keepdims=True)
    grads = Weights(
        grads.encoder, grads.b_enc, grads.decoder - along * weights.decoder, grads.b_dec
    )
    # optax mixes its integer step count with floats.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        change, moments = optimizer(recipe, steps).update(grads, state.optimizer)  # type: ignore
        moved: Weights = optax.apply_updates(weights, change)  # type: ignore[assignment]
    weights = Weights(moved.encoder, moved.b_enc, unit(moved.decoder), moved.b_dec)
    fired: Bool[Array, " F"] = (
        jnp.zeros(state.silent.shape, bool).at[indices.reshape(-1)].max(values.reshape(-1) > 0)
    )
    silent = jnp.where(fired, 0, state.silent + jnp.int32(x.shape[0]))
    report = {
        "loss": jnp.mean(error**2),
        "smallest": smallest,
        "dead": jnp.mean((silent > recipe.dead_after).astype(jnp.float32)),
        "active": jnp.mean(jnp.sum((values > 0).astype(jnp.float32), axis=1)),
    }
    return State(weights, moments, silent, state.step + 1), report
