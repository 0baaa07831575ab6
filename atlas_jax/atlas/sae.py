"""Sparse autoencoders as pure functions.

    z = x W_enc + b_enc                       (x - b_dec for x, where apply_b_dec_to_input)
    f = relu(z)                               standard
    f = z * (z > theta)                       jumprelu, theta one threshold per feature
    f = relu(z) where z is one of the k largest of its token, else 0      topk
    f = relu(z) where z is one of the k n largest of all n tokens, else 0 batchtopk
    x_hat = f W_dec + b_dec

Everything is float32, multiplied at the highest precision: a feature near its threshold must not
depend on the back end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Architecture = Literal["standard", "jumprelu", "topk", "batchtopk"]
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "jumprelu", "topk", "batchtopk")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SAE:
    """The weights of a sparse autoencoder with F features on a site of width d.

    Attributes:
        threshold: theta of jumprelu, else None.
        k: of topk and batchtopk, else None.
        apply_b_dec_to_input: whether b_dec is subtracted before the encoder.
    """

    W_enc: Float[Array, "d F"]
    b_enc: Float[Array, " F"]
    W_dec: Float[Array, "F d"]
    b_dec: Float[Array, " d"]
    threshold: Float[Array, " F"] | None = None
    architecture: Architecture = field(default="standard", metadata={"static": True})
    k: int | None = field(default=None, metadata={"static": True})
    apply_b_dec_to_input: bool = field(default=False, metadata={"static": True})

    @property
    def width(self) -> int:
        """d."""
        return self.W_dec.shape[-1]

    @property
    def n_features(self) -> int:
        """F."""
        return self.W_dec.shape[0]


def matmul(x: Float[Array, "*b m"], w: Float[Array, "m n"]) -> Float[Array, "*b n"]:
    """x @ w in full float32 on every back end."""
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST)


def pre_activations(sae: SAE, x: Float[Array, "*b d"]) -> Float[Array, "*b F"]:
    """z: what the activation function sees."""
    x = x.astype(jnp.float32)
    if sae.apply_b_dec_to_input:
        x = x - _over(sae.b_dec, x)
    z = matmul(x, sae.W_enc)
    return z + _over(sae.b_enc, z)


def encode(sae: SAE, x: Float[Array, "*b d"]) -> Float[Array, "*b F"]:
    """Features f of activations x."""
    z = pre_activations(sae, x)
    if sae.architecture == "jumprelu":
        assert sae.threshold is not None
        return jnp.where(z > _over(sae.threshold, z), z, 0.0)
    f = jax.nn.relu(z)
    if sae.architecture == "topk":
        assert sae.k is not None
        values, where = lax.top_k(f, sae.k)
        return jnp.put_along_axis(jnp.zeros_like(f), where, values, axis=-1, inplace=False)
    if sae.architecture == "batchtopk":
        assert sae.k is not None
        flat = f.reshape(-1)
        values, where = lax.top_k(flat, sae.k * (flat.size // f.shape[-1]))
        return jnp.zeros_like(flat).at[where].set(values).reshape(f.shape)
    return f


def decode(sae: SAE, features: Float[Array, "*b F"]) -> Float[Array, "*b d"]:
    """The activations x_hat that features stand for."""
    out = matmul(features.astype(jnp.float32), sae.W_dec)
    return out + _over(sae.b_dec, out)


def _over(vector: Array, like: Array) -> Array:
    """Gives a vector the leading axes of `like`, since ranks are never promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
