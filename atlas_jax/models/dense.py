"""Projections and norms: what acts on the last axis alone."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from atlas_jax.models.arch import Arch


def matmul(x: Array, w: Array) -> Array:
    """x @ w; float32 operands are multiplied in float32 on every back end, never in TF32."""
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)


def _last(vector: Array, x: Array) -> Array:
    """A vector in the shape that acts on the last axis of x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Dense(nnx.Module):
    """x @ kernel + bias, with the kernel stored (in, out)."""

    def __init__(self, d_in: int, d_out: int, dtype: jnp.dtype, bias: bool = False) -> None:
        self.kernel = nnx.Param(jnp.zeros((d_in, d_out), dtype))
        self.bias = nnx.Param(jnp.zeros((d_out,), dtype)) if bias else None

    def __call__(self, x: Array) -> Array:
        out = matmul(x, self.kernel[...])
        return out if self.bias is None else out + _last(self.bias[...], out)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + weight), in float32."""

    def __init__(self, width: int, arch: Arch, dtype: jnp.dtype) -> None:
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.eps, self.offset = arch.norm_eps, arch.norm_offset

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        wide = x.astype(jnp.float32)
        unit = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        weight = _last(self.weight[...], x)
        if self.offset:
            scaled = unit * (self.offset + weight.astype(jnp.float32))
            return scaled.astype(x.dtype)
        # Llama rounds to the compute dtype before it multiplies by the weight.
        return unit.astype(x.dtype) * weight


class LayerNorm(nnx.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, in float32."""

    def __init__(self, width: int, arch: Arch, dtype: jnp.dtype) -> None:
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))
        self.eps = arch.norm_eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        unit = centred * lax.rsqrt(variance + self.eps)
        weight, bias = (_last(p[...], x).astype(jnp.float32) for p in (self.weight, self.bias))
        return (unit * weight + bias).astype(x.dtype)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}


def norm(width: int, arch: Arch, dtype: jnp.dtype) -> RMSNorm | LayerNorm:
    """A norm of the architecture's kind."""
    return NORMS[arch.norm](width, arch, dtype)
