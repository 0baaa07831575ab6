"""Causal grouped-query attention, with its masks, its rotary angles and its cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.dense import Dense, RMSNorm
from atlas_jax.models.rope import rope_frequencies, rotate

At = Callable[[str, Array], Array]
Remember = Callable[[Array, Array], tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers; which of the `space` slots hold a token, at what position."""

    keys: Float[Array, "layers batch space kv_heads k"]
    values: Float[Array, "layers batch space kv_heads k"]
    mask: Bool[Array, "batch space"]
    positions: Int[Array, "batch space"]
    filled: Int[Array, ""]

    @classmethod
    def empty(cls, arch: Arch, batch: int, space: int, dtype: jnp.dtype) -> Cache:
        """A cache with room for `space` tokens of each of `batch` texts."""
        shape = (arch.n_layers, batch, space, arch.n_kv_heads, arch.d_head)
        return cls(
            jnp.zeros(shape, dtype),
            jnp.zeros(shape, dtype),
            jnp.zeros((batch, space), bool),
            jnp.zeros((batch, space), jnp.int32),
            jnp.zeros((), jnp.int32),
        )


@dataclass(frozen=True)
class Geometry:
    """What all layers share: for each kind of layer the rotary angles and the attention mask."""

    cos: Float[Array, "kinds b t half"]
    sin: Float[Array, "kinds b t half"]
    mask: Bool[Array, "kinds b t s"]


def geometry(
    arch: Arch,
    positions: Int[Array, "b t"],
    key_positions: Int[Array, "b s"],
    key_mask: Bool[Array, "b s"],
) -> Geometry:
    """Angles and masks: a query sees real keys at or before it, within its layer's window."""

    def one(kind: AttentionKind) -> tuple[Array, Array, Array]:
        # Without RoPE no dimension is rotated, and there are no angles.
        inverse = rope_frequencies(kind.rope, arch.d_rotary) if kind.rope else jnp.zeros((0,))
        angle = positions[:, :, None].astype(jnp.float32) * inverse.reshape(1, 1, -1)
        distance = positions[:, :, None] - key_positions[:, None, :]
        seen = (distance >= 0) & key_mask[:, None, :]
        if kind.window is not None:
            seen &= distance < kind.window
        return jnp.cos(angle), jnp.sin(angle), seen

    return Geometry(*(jnp.stack(part) for part in zip(*map(one, arch.kinds), strict=True)))


class Attention(nnx.Module):
    """Causal grouped-query attention."""

    def __init__(self, arch: Arch, dtype: jnp.dtype) -> None:
        self.arch = arch
        wide, narrow = arch.n_heads * arch.d_head, arch.n_kv_heads * arch.d_head
        self.q = Dense(arch.d_model, wide, dtype, arch.qkv_bias)
        self.k = Dense(arch.d_model, narrow, dtype, arch.qkv_bias)
        self.v = Dense(arch.d_model, narrow, dtype, arch.qkv_bias)
        self.o = Dense(wide, arch.d_model, dtype, arch.o_bias)
        if arch.qk_norm:
            each = arch.qk_norm == "head"
            self.q_norm = RMSNorm(arch.d_head if each else wide, arch, dtype)
            self.k_norm = RMSNorm(arch.d_head if each else narrow, arch, dtype)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        cos: Float[Array, "b t half"],
        sin: Float[Array, "b t half"],
        mask: Bool[Array, "b t s"],
        remember: Remember,
        at: At,
    ) -> Float[Array, "b t d"]:
        arch = self.arch
        batch, time, _ = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        if arch.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.reshape(batch, time, arch.n_heads, arch.d_head)
        k = k.reshape(batch, time, arch.n_kv_heads, arch.d_head)
        v = v.reshape(batch, time, arch.n_kv_heads, arch.d_head)
        if arch.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        k, v = remember(rotate(k, cos, sin), v)
        q = rotate(q, cos, sin).reshape(batch, time, arch.n_kv_heads, -1, arch.d_head)
        precise = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        scores = arch.attn_scale * jnp.einsum(
            "btgrk,bsgk->bgrts", q, k, precision=precise, preferred_element_type=jnp.float32
        )
        if arch.attn_softcap is not None:
            scores = arch.attn_softcap * jnp.tanh(scores / arch.attn_softcap)
        scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
        # A row of padding sees nothing; its weights are zero rather than NaN.
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = (weights / jnp.where(total > 0, total, 1.0)).astype(v.dtype)
        z = jnp.einsum("bgrts,bsgk->btgrk", weights, v, precision=precise)
        return self.o(at("attn.hook_z", z.reshape(batch, time, arch.n_heads * arch.d_head)))
