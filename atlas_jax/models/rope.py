"""Rotary position embedding (Su et al. 2021)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from atlas_jax.models.arch import Rope


def rope_frequencies(rope: Rope, width: int) -> Float[Array, " half"]:
    """Inverse frequencies theta^(-2i/width), scaled as the model was trained to expect.

    The `llama3` rule (Llama 3.1): wavelengths beyond original_length / low_factor are divided by
    `factor`, those below original_length / high_factor are kept, and those between are blended.

    Args:
        rope: the constants.
        width: number of dimensions that are rotated.
    """
    inverse = rope.theta ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    if rope.kind == "linear":
        return inverse / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * jnp.pi / inverse
        smooth = (rope.original_length / wavelength - rope.low_factor) / (
            rope.high_factor - rope.low_factor
        )
        smooth = jnp.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * inverse / rope.factor + smooth * inverse
    return inverse


def rotate(
    x: Float[Array, "b t h k"], cos: Float[Array, "b t half"], sin: Float[Array, "b t half"]
) -> Float[Array, "b t h k"]:
    """Rotates the pairs (x_i, x_{i + half}) by the position's angles; what lies beyond stays."""
    half = cos.shape[-1]
    if not half:
        return x
    a, b = (x[..., i * half : (i + 1) * half].astype(jnp.float32) for i in range(2))
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned = [(a * cos - b * sin).astype(x.dtype), (b * cos + a * sin).astype(x.dtype)]
    return jnp.concatenate([*turned, x[..., 2 * half :]], axis=-1)
