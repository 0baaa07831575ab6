"""Sparse autoencoders as pure functions.

    z = n(x) W_enc + b_enc                    (n(x) - b_dec for n(x), where apply_b_dec_to_input)
    f = relu(z)                               standard
    f = relu(z) * (z > theta)                 jumprelu, theta one threshold per feature
    f = relu(z) where z is one of the k largest of its token, else 0      topk
    f = relu(z) where z is one of the k n largest of all n tokens, else 0 batchtopk
    x_hat = n^-1(f W_dec + b_dec)

n scales each activation by itself, in the three ways of SAELens:

    n(x) = x                                  none
    n(x) = (x - m) / (s + 1e-5), n^-1(y) = y s + m        layer_norm; m mean, s unbiased deviation
    n(x) = x sqrt(d) / |x|, n^-1(y) = y |x| / sqrt(d)     constant_norm_rescale

Everything is float32, multiplied at the highest precision: a feature near its threshold must not
depend on the back end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from atlas_jax.errors import InputError

Architecture = Literal["standard", "jumprelu", "topk", "batchtopk"]
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "jumprelu", "topk", "batchtopk")
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]
_EPS = 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SAE:
    """The weights of a sparse autoencoder with F features on a site of width d.

    Attributes:
        threshold: theta of jumprelu, else None.
        k: of topk and batchtopk, else None.
        apply_b_dec_to_input: whether b_dec is subtracted before the encoder.
        normalize: n.
    """

    W_enc: Float[Array, "d F"]
    b_enc: Float[Array, " F"]
    W_dec: Float[Array, "F d"]
    b_dec: Float[Array, " d"]
    threshold: Float[Array, " F"] | None = None
    architecture: Architecture = field(default="standard", metadata={"static": True})
    k: int | None = field(default=None, metadata={"static": True})
    apply_b_dec_to_input: bool = field(default=False, metadata={"static": True})
    normalize: Normalisation = field(default="none", metadata={"static": True})

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


def normalise(sae: SAE, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """What the encoder multiplies, float32: n(x), less b_dec where the architecture says so."""
    x = x.astype(jnp.float32)
    if sae.normalize != "none":
        centre, size = _scale(sae, x)
        x = (x - centre) / (size + _EPS if sae.normalize == "layer_norm" else size)
    return x - _over(sae.b_dec, x) if sae.apply_b_dec_to_input else x


def _scale(sae: SAE, x: Float[Array, "*b d"]) -> tuple[Float[Array, "*b 1"], Float[Array, "*b 1"]]:
    """What n^-1 adds and what it multiplies by."""
    if sae.normalize == "layer_norm":
        mean = jnp.mean(x, axis=-1, keepdims=True)
        return mean, jnp.std(x, axis=-1, keepdims=True, ddof=1)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True) / x.shape[-1] ** 0.5
    return jnp.zeros_like(norm), jnp.where(norm > 0, norm, 1.0)


def pre_activations(sae: SAE, x: Float[Array, "*b d"]) -> Float[Array, "*b F"]:
    """z: what the activation function sees."""
    z = matmul(normalise(sae, x), sae.W_enc)
    return z + _over(sae.b_enc, z)


def encode(sae: SAE, x: Float[Array, "*b d"]) -> Float[Array, "*b F"]:
    """Features f of activations x."""
    z = pre_activations(sae, x)
    f = jax.nn.relu(z)
    if sae.architecture == "jumprelu":
        assert sae.threshold is not None
        return jnp.where(z > _over(sae.threshold, z), f, 0.0)
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


def decode(
    sae: SAE, features: Float[Array, "*b F"], x: Float[Array, "*b d"] | None = None
) -> Float[Array, "*b d"]:
    """The activations x_hat that features stand for.

    Args:
        sae: the autoencoder.
        features: f.
        x: the activations that were encoded, which n^-1 needs; of no use where n(x) = x.

    Raises:
        InputError: no x, for an autoencoder that scales its input.
    """
    out = matmul(features.astype(jnp.float32), sae.W_dec)
    out = out + _over(sae.b_dec, out)
    if sae.normalize == "none":
        return out
    if x is None:
        raise InputError(
            f"Expected the encoded activations beside their features, to undo {sae.normalize}: "
            "decode(sae, features, x)."
        )
    centre, size = _scale(sae, x.astype(jnp.float32))
    return out * size + centre


def _over(vector: Array, like: Array) -> Array:
    """Gives a vector the leading axes of `like`, since ranks are never promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def only(sae: SAE, feature: int) -> tuple[SAE, int]:
    """An autoencoder that gives one feature, and which of its own that is.

    Of a feature that competes with the others (topk, batchtopk), the whole autoencoder.
    """
    if sae.k is not None:
        return sae, feature
    part = slice(feature, feature + 1)
    return (
        replace(
            sae,
            W_enc=sae.W_enc[:, part],
            b_enc=sae.b_enc[part],
            W_dec=sae.W_dec[part],
            threshold=None if sae.threshold is None else sae.threshold[part],
        ),
        0,
    )
