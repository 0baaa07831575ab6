"""Pooling over the tokens of a sample: (B, T, d) to (B, d)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from atlas_jax.errors import InputError

PoolFunction = Callable[[Float[Array, "b t d"], Bool[Array, "b t"]], Float[Array, "b d"]]


def after_first(mask: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """The real tokens but the first one of each sample.

    The first position is an attention sink: its norm is tens of times that of any other, and a
    maximum over it would be the same for every text.
    """
    return mask & (jnp.cumsum(mask.astype(jnp.int32), axis=1) > 1)


def pool_max(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Largest value of each feature (the paper's pooling)."""
    kept = after_first(mask)[:, :, None]
    return jnp.max(jnp.where(kept, acts, -jnp.inf), axis=1)


def pool_mean(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean of each feature, summed in float32."""
    kept = after_first(mask)[:, :, None]
    total = jnp.sum(jnp.where(kept, acts, 0).astype(jnp.float32), axis=1)
    return (total / jnp.sum(kept, axis=1, dtype=jnp.float32)).astype(acts.dtype)


def pool_absmax(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The value of largest magnitude of each feature, with its sign; the earliest among equals."""
    size = jnp.where(after_first(mask)[:, :, None], jnp.abs(acts), -jnp.inf)
    return jnp.take_along_axis(acts, jnp.argmax(size, axis=1)[:, None], axis=1)[:, 0]


def pool_last(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The last real token."""
    position = jnp.arange(mask.shape[1], dtype=jnp.int32)
    last = jnp.max(jnp.where(after_first(mask), position[None, :], 0), axis=1)
    return jnp.take_along_axis(acts, last[:, None, None], axis=1)[:, 0]


POOLS: dict[str, PoolFunction] = {
    "max": pool_max,
    "mean": pool_mean,
    "absmax": pool_absmax,
    "last": pool_last,
}
"""The poolings by name. None of them sees padding or the first position."""


def find_pool(name: str) -> PoolFunction:
    """The pooling of that name.

    Raises:
        InputError: unknown name.
    """
    if name not in POOLS:
        raise InputError(f"Expected a pooling among {', '.join(POOLS)}, got '{name}'.")
    return POOLS[name]
