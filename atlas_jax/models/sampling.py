"""Choosing the next token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key


def choose(
    logits: Float[Array, "b v"],
    keys: Key[Array, " b"],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    *,
    greedy: bool,
    top_k: int,
) -> Int[Array, " b"]:
    """The most likely token, or a sample of softmax(logits / temperature) after the filters.

    Args:
        keys: (B,), one for each row: what a row draws does not depend on the rows beside it.
    """
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    kept = filter_logits(logits / temperature, top_k, top_p)
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)


def filter_logits(
    logits: Float[Array, "b v"], top_k: int, top_p: Float[Array, ""]
) -> Float[Array, "b v"]:
    """Leaves the k most likely tokens, then the fewest whose probabilities sum to at least p."""
    if top_k:
        least = lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    order = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(order, axis=-1), axis=-1) - jax.nn.softmax(order, axis=-1)
    # A running float32 sum may reach 1 before the last token: p = 1 keeps all of them.
    kept = jnp.where((before < top_p) | (top_p >= 1), order, jnp.inf)
    return jnp.where(logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits)
