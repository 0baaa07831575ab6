"""What a training step changes, and its checkpoint on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """The autoencoder of standardised activations; a feature is a row of encoder and decoder.

    Attributes:
        log_threshold: log theta of jumprelu, else None.
    """

    encoder: Float[Array, "F d"]
    b_enc: Float[Array, " F"]
    decoder: Float[Array, "F d"]
    b_dec: Float[Array, " d"]
    log_threshold: Float[Array, " F"] | None = None


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


def init(width: int, recipe: Recipe, steps: int, x: Float[Array, "n d"] | None = None) -> State:
    """Random decoder rows, and E = D / 2, so that the first reconstructions do not overshoot.

    Args:
        width: d.
        recipe: how to train.
        steps: how many steps there will be.
        x: jumprelu: standardised activations; its thresholds start where k features are active on
            a token of these on average.
    """
    shape = (recipe.n_features, width)
    decoder = unit(jax.random.normal(jax.random.key(recipe.seed), shape))
    thresholds = None
    if recipe.architecture == "jumprelu":
        assert x is not None
        z = np.asarray(x) @ np.asarray(decoder / 2).T
        least = np.partition(z.ravel(), -recipe.k * len(z))[-recipe.k * len(z)]
        thresholds = jnp.full(shape[0], np.log(max(float(least), 1e-3)), jnp.float32)
    weights = Weights(decoder / 2, jnp.zeros(shape[0]), decoder, jnp.zeros(width), thresholds)
    return State(
        weights,
        recipe.optimizer(steps).init(weights),  # type: ignore[arg-type]
        jnp.zeros(shape[0], jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length one; a zero row stays zero."""
    norm = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norm > 0, norm, 1.0)


Losses = list[dict[str, float]]


def save_state(state: State, losses: Losses, path: Path, plan: str) -> None:
    """Writes a checkpoint, under its name only when whole."""
    leaves = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    write_tensors(path, leaves, {"plan": plan, "losses": json.dumps(losses)})


def load_state(like: State, path: Path, plan: str) -> tuple[State, Losses]:
    """Reads a checkpoint; without one, gives `like` back.

    Raises:
        InputError: it is damaged, or of a training by another plan.
    """
    if not path.exists():
        return like, []
    remedy = "delete it and train again"
    notes, tensors = read_tensors(path, "checkpoint", remedy, header="losses")
    if notes.get("plan") != plan:
        raise InputError(
            f"Expected an unfinished training by this recipe in {path.parent}, it holds another. "
            f"Use another folder, or delete {path.name}."
        )
    with refusing(f"the checkpoint at {path}", "It is damaged: delete it and train again"):
        leaves = [jnp.asarray(tensors[name]) for name in sorted(tensors)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), notes["losses"]
