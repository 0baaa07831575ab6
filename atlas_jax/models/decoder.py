"""The one decoder: a Flax NNX module whose layers are stacked and scanned.

Every family this project reads is a setting of `Arch`. Activations are read and edited at named
points of a block by one mechanism, `at(point, value)`, which the block calls wherever a site lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.models.arch import Arch, AttentionKind, Rope
from atlas_jax.models.sites import EditStack, Site, apply_edit

At = Callable[[str, Array], Array]
Reduce = Callable[[Array], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


def matmul(x: Array, w: Array) -> Array:
    """x @ w; float32 operands are multiplied in float32 on every back end, never in TF32."""
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)


class Norm(nnx.Module):
    """RMSNorm: x / sqrt(mean(x^2) + eps) * (offset + weight), in float32."""

    def __init__(self, width: int, arch: Arch, dtype: jnp.dtype) -> None:
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.eps, self.offset = arch.norm_eps, arch.norm_offset

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        unit = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        weight = self.weight[...].reshape((1,) * (x.ndim - 1) + (-1,))
        if self.offset:
            scaled = unit * (self.offset + weight.astype(jnp.float32))
            return scaled.astype(x.dtype)
        # Llama rounds to the compute dtype before it multiplies by the weight.
        return unit.astype(x.dtype) * weight


class Dense(nnx.Module):
    """x @ kernel, with the kernel stored (in, out)."""

    def __init__(self, d_in: int, d_out: int, dtype: jnp.dtype) -> None:
        self.kernel = nnx.Param(jnp.zeros((d_in, d_out), dtype))

    def __call__(self, x: Array) -> Array:
        return matmul(x, self.kernel[...])


def rope_frequencies(rope: Rope, d_head: int) -> Float[Array, " half"]:
    """Inverse frequencies theta^(-2i/d), scaled as the model was trained to expect.

    The `llama3` rule (Llama 3.1): wavelengths beyond original_length / low_factor are divided by
    `factor`, those below original_length / high_factor are kept, and those between are blended.
    """
    inverse = rope.theta ** -(jnp.arange(0, d_head, 2, dtype=jnp.float32) / d_head)
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
    """Rotates the pairs (x_i, x_{i + k/2}) by the position's angles."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


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
        angle = positions[:, :, None].astype(jnp.float32) * rope_frequencies(
            kind.rope, arch.d_head
        ).reshape(1, 1, -1)
        distance = positions[:, :, None] - key_positions[:, None, :]
        seen = (distance >= 0) & key_mask[:, None, :]
        if kind.window is not None:
            seen &= distance < kind.window
        return jnp.cos(angle), jnp.sin(angle), seen

    return Geometry(*(jnp.stack(part) for part in zip(*map(one, arch.kinds), strict=True)))


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, arch: Arch, dtype: jnp.dtype) -> None:
        self.arch = arch
        wide, narrow = arch.n_heads * arch.d_head, arch.n_kv_heads * arch.d_head
        self.q = Dense(arch.d_model, wide, dtype)
        self.k = Dense(arch.d_model, narrow, dtype)
        self.v = Dense(arch.d_model, narrow, dtype)
        self.o = Dense(wide, arch.d_model, dtype)
        if arch.qk_norm:
            self.q_norm = Norm(arch.d_head, arch, dtype)
            self.k_norm = Norm(arch.d_head, arch, dtype)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        cos: Float[Array, "b t half"],
        sin: Float[Array, "b t half"],
        mask: Bool[Array, "b t s"],
        remember: Callable[[Array, Array], tuple[Array, Array]],
        at: At,
    ) -> Float[Array, "b t d"]:
        arch = self.arch
        batch, time, _ = x.shape
        q = self.q(x).reshape(batch, time, arch.n_heads, arch.d_head)
        k = self.k(x).reshape(batch, time, arch.n_kv_heads, arch.d_head)
        v = self.v(x).reshape(batch, time, arch.n_kv_heads, arch.d_head)
        if arch.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        k, v = remember(rotate(k, cos, sin), v)
        q = rotate(q, cos, sin).reshape(batch, time, arch.n_kv_heads, -1, arch.d_head)
        precise = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        scores = jnp.einsum(
            "btgrk,bsgk->bgrts", q, k, precision=precise, preferred_element_type=jnp.float32
        )
        scores = jnp.where(mask[:, None, None], scores * arch.attn_scale, -jnp.inf)
        # A row of padding sees nothing; its weights are zero rather than NaN.
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = (weights / jnp.where(total > 0, total, 1.0)).astype(v.dtype)
        z = jnp.einsum("bgrts,bsgk->btgrk", weights, v, precision=precise)
        return self.o(at("attn.hook_z", z.reshape(batch, time, arch.n_heads * arch.d_head)))


class Block(nnx.Module):
    """One layer: attention and gated MLP, each with its norms, added to the residual stream."""

    def __init__(self, arch: Arch, dtype: jnp.dtype) -> None:
        self.arch = arch
        self.attn = Attention(arch, dtype)
        self.gate = Dense(arch.d_model, arch.d_mlp, dtype)
        self.up = Dense(arch.d_model, arch.d_mlp, dtype)
        self.down = Dense(arch.d_mlp, arch.d_model, dtype)
        self.norm_attn = Norm(arch.d_model, arch, dtype)
        self.norm_mlp = Norm(arch.d_model, arch, dtype)
        if arch.post_norms:
            self.post_attn = Norm(arch.d_model, arch, dtype)
            self.post_mlp = Norm(arch.d_model, arch, dtype)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        cos: Array,
        sin: Array,
        mask: Array,
        remember: Callable[[Array, Array], tuple[Array, Array]],
        at: At,
    ) -> Float[Array, "b t d"]:
        post = self.arch.post_norms
        x = at("hook_resid_pre", x)
        out = self.attn(self.norm_attn(x), cos, sin, mask, remember, at)
        x = x + at("hook_attn_out", self.post_attn(out) if post else out)
        x = at("hook_resid_mid", x)
        h = self.norm_mlp(x)
        neurons = at("mlp.hook_post", ACTIVATIONS[self.arch.activation](self.gate(h)) * self.up(h))
        out = self.down(neurons)
        x = x + at("hook_mlp_out", self.post_mlp(out) if post else out)
        return at("hook_resid_post", x)


class Decoder(nnx.Module):
    """A causal language model.

    Parameters of the layers are stacked along a leading axis of length n_layers and scanned, so
    compile time does not grow with depth.
    """

    def __init__(self, arch: Arch, dtype: jnp.dtype | None = None) -> None:
        dtype = jnp.dtype(jnp.float32) if dtype is None else dtype
        self.arch = arch
        self.embed = nnx.Param(jnp.zeros((arch.vocab_size, arch.d_model), dtype))
        self.blocks = nnx.vmap(
            lambda _: Block(arch, dtype), in_axes=0, out_axes=0, axis_size=arch.n_layers
        )(jnp.arange(arch.n_layers))
        self.norm = Norm(arch.d_model, arch, dtype)
        if not arch.tied:
            self.head = Dense(arch.d_model, arch.vocab_size, dtype)

    def embed_tokens(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Token embeddings as they enter block 0."""
        x = self.embed[...][tokens]
        # Gemma rounds the factor to the compute dtype.
        return x * jnp.asarray(self.arch.embed_scale, x.dtype) if self.arch.embed_scale != 1 else x

    def logits(self, x: Float[Array, "*b d"]) -> Float[Array, "*b vocab"]:
        """Final norm and unembedding; float32."""
        x = self.norm(x)
        out = matmul(x, self.embed[...].T) if self.arch.tied else self.head(x)
        return out.astype(jnp.float32)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        *,
        taps: tuple[Site, ...] = (),
        reduce: Reduce = lambda acts: acts,
        edits: Mapping[str, EditStack] | None = None,
        swaps: Mapping[Site, Reduce] | None = None,
        editable: Bool[Array, "b t"] | None = None,
        cache: Cache | None = None,
        depth: int | None = None,
    ) -> tuple[Float[Array, "b t d"], dict[Site, Array], Cache | None]:
        """Runs the layers.

        Args:
            x: embedded tokens.
            mask: True at real tokens; padding may lie on either side.
            taps: sites to read.
            reduce: applied to each tapped (B, T, d) inside the scan, e.g. a pooling over T.
            edits: what to add, by point (see `stack_edits`).
            swaps: functions (B, T, d) -> (B, T, d) whose result takes the place of a site's
                activations, such as an autoencoder's reconstruction.
            editable: positions that edits reach; default: all real tokens.
            cache: keys and values of earlier tokens; `x` then continues those texts.
            depth: number of layers to run; default: all.

        Returns:
            The residual stream after the last layer run, {site: reduced activations}, and the
            cache with this call's tokens added.
        """
        arch = self.arch
        edits = dict(edits or {})
        editable = mask if editable is None else editable & mask
        positions = jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)
        if cache is not None:
            positions = positions + jnp.sum(cache.mask, axis=1, keepdims=True, dtype=jnp.int32)
            start = (jnp.zeros((), jnp.int32), cache.filled)
            cache = replace(
                cache,
                mask=lax.dynamic_update_slice(cache.mask, mask, start),
                positions=lax.dynamic_update_slice(cache.positions, positions, start),
            )
            shared = geometry(arch, positions, cache.positions, cache.mask)
        else:
            shared = geometry(arch, positions, positions, mask)
        graph, stacked = nnx.split(self.blocks)
        kinds = jnp.array(arch.layer_kinds)
        taken = _Taken.plan(taps, arch, x, reduce)

        def layer(carry: tuple, index: Array) -> tuple[tuple, None]:
            x, buffers, keys, values = carry

            def pick(leaf: Array) -> Array:
                return lax.dynamic_index_in_dim(leaf, index, keepdims=False)

            block = nnx.merge(graph, jax.tree.map(pick, stacked))

            def at(point: str, value: Array) -> Array:
                nonlocal buffers
                if point in edits:
                    vector, strength = pick(edits[point].vector), pick(edits[point].strength)
                    value = apply_edit(value, vector, strength, editable)
                for site, swap in (swaps or {}).items():
                    if site.point == point:
                        value = lax.cond(index == site.layer, swap, lambda v: v, value)
                buffers = taken.record(buffers, point, index, value)
                return value

            def remember(k: Array, v: Array) -> tuple[Array, Array]:
                nonlocal keys, values
                if cache is None:
                    return k, v
                zero = jnp.zeros((), jnp.int32)
                where = (index, zero, cache.filled, zero, zero)
                keys = lax.dynamic_update_slice(keys, k[None], where)
                values = lax.dynamic_update_slice(values, v[None], where)
                return pick(keys), pick(values)

            kind = kinds[index]
            cos, sin, seen = (
                lax.dynamic_index_in_dim(part, kind, keepdims=False)
                for part in (shared.cos, shared.sin, shared.mask)
            )
            x = block(x, cos, sin, seen, remember, at)
            return (x, buffers, keys, values), None

        start_keys = (cache.keys, cache.values) if cache is not None else (None, None)
        layers = jnp.arange(arch.n_layers if depth is None else depth, dtype=jnp.int32)
        (x, buffers, keys, values), _ = lax.scan(layer, (x, taken.empty, *start_keys), layers)
        if cache is not None:
            filled = cache.filled + jnp.int32(mask.shape[1])
            cache = replace(cache, keys=keys, values=values, filled=filled)
        return x, taken.collect(buffers), cache


@dataclass(frozen=True)
class _Taken:
    """Buffers for the tapped activations: an array for each point, a row for each tapped layer."""

    taps: tuple[Site, ...]
    slots: dict[str, Int[Array, " layers"]]
    empty: dict[str, Array]
    reduce: Reduce

    @classmethod
    def plan(cls, taps: tuple[Site, ...], arch: Arch, x: Array, reduce: Reduce) -> _Taken:
        from atlas_jax.models.sites import site_width

        slots, empty = {}, {}
        for point in sorted({site.point for site in taps}):
            layers = sorted({site.layer for site in taps if site.point == point})
            shape = (*x.shape[:2], site_width(Site(0, point), arch))
            out = jax.eval_shape(reduce, jax.ShapeDtypeStruct(shape, x.dtype))
            row = [layers.index(i) if i in layers else -1 for i in range(arch.n_layers)]
            slots[point] = jnp.array(row, jnp.int32)
            empty[point] = jnp.zeros((len(layers), *out.shape), out.dtype)
        return cls(taps, slots, empty, reduce)

    def record(self, buffers: dict[str, Array], point: str, layer: Array, value: Array) -> dict:
        if point not in self.slots:
            return buffers
        slot = self.slots[point][layer]
        buffer = lax.cond(
            slot >= 0,
            lambda old: lax.dynamic_update_index_in_dim(old, self.reduce(value), slot, 0),
            lambda old: old,
            buffers[point],
        )
        return {**buffers, point: buffer}

    def collect(self, buffers: dict[str, Array]) -> dict[Site, Array]:
        out = {}
        for site in self.taps:
            layers = sorted({s.layer for s in self.taps if s.point == site.point})
            out[site] = buffers[site.point][layers.index(site.layer)]
        return out
