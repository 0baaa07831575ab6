"""Products of a sparse code with a dictionary that touch chosen features only.

A token's code is `cap` slots: values (0: unused) and the features they belong to. Where a dense
training step takes five products of size n x F x d, this takes one, z = x E^T, and two passes over
n x cap rows of the dictionary. Sums are float32 whatever the dictionary's dtype.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def product(x: Float[Array, "n m"], w: Float[Array, "m f"]) -> Float[Array, "n f"]:
    """x @ w: float32 in full precision, bfloat16 summed in float32."""
    return jnp.matmul(
        x, w, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.dtype("float32")
    )


def encode_all(
    x: Float[Array, "n d"], encoder: Float[Array, "F d"], b_enc: Float[Array, " F"]
) -> Float[Array, "n F"]:
    """z = x E^T + b_e."""
    # The barrier makes XLA transpose the encoder once, which its matrix product needs to be fast.
    return product(x, lax.optimization_barrier(encoder.T)) + b_enc[None]


def reconstruct(
    decoder: Float[Array, "F d"],
    b_dec: Float[Array, " d"],
    values: Float[Array, "n cap"],
    indices: Int[Array, "n cap"],
) -> Float[Array, "n d"]:
    """f D + b_d."""

    def add(slot: Array, total: Array) -> Array:
        value = lax.dynamic_index_in_dim(values, slot, 1)
        row = decoder[lax.dynamic_index_in_dim(indices, slot, 1, False)]
        return total + value * row.astype(jnp.float32)

    start = jnp.broadcast_to(b_dec[None], (values.shape[0], b_dec.shape[0]))
    return lax.fori_loop(0, values.shape[1], add, start)


def gradient(
    x: Float[Array, "n d"],
    g: Float[Array, "n d"],
    decoder: Float[Array, "F d"],
    values: Float[Array, "n cap"],
    indices: Int[Array, "n cap"],
) -> tuple[Float[Array, "F d"], Float[Array, " F"], Float[Array, "F d"], Float[Array, "n cap"]]:
    """Gradients of encoder, b_enc and decoder, and of each slot's value, from g = dL / dx_hat.

    dD_i = sum f_i g; df_i = g . D_i; dE_i = sum df_i x and db_i = sum df_i where f_i > 0.
    """
    g, x = g.astype(jnp.float32), x.astype(jnp.float32)

    def add(slot: Array, grads: tuple[Array, ...]) -> tuple[Array, ...]:
        encoder, b_enc, wide, inners = grads
        value = lax.dynamic_index_in_dim(values, slot, 1, False)
        index = lax.dynamic_index_in_dim(indices, slot, 1, False)
        inner = jnp.sum(g * decoder[index].astype(jnp.float32), axis=1)
        live = jnp.where(value > 0, inner, 0.0)
        return (
            encoder.at[index].add(live[:, None] * x),
            b_enc.at[index].add(live),
            wide.at[index].add(value[:, None] * g),
            lax.dynamic_update_index_in_dim(inners, inner, slot, 1),
        )

    start = (
        jnp.zeros(decoder.shape),
        jnp.zeros(decoder.shape[0]),
        jnp.zeros(decoder.shape),
        jnp.zeros(values.shape),
    )
    encoder, b_enc, wide, inners = lax.fori_loop(0, values.shape[1], add, start)
    return encoder, b_enc, wide, inners
