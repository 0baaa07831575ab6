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

from atlas_jax.models.arch import Arch
from atlas_jax.models.attention import At, Attention, Cache, Remember, geometry
from atlas_jax.models.dense import Dense, matmul, norm
from atlas_jax.models.sites import EditStack, Site, apply_edit, site_width

Reduce = Callable[[Array], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class Block(nnx.Module):
    """One layer: attention and MLP, each with its norms, added to the residual stream."""

    def __init__(self, arch: Arch, dtype: jnp.dtype) -> None:
        self.arch = arch
        self.attn = Attention(arch, dtype)
        if arch.gated:
            self.gate = Dense(arch.d_model, arch.d_mlp, dtype, arch.mlp_bias)
        self.up = Dense(arch.d_model, arch.d_mlp, dtype, arch.mlp_bias)
        self.down = Dense(arch.d_mlp, arch.d_model, dtype, arch.mlp_bias)
        if arch.pre_norms:
            self.norm_attn = norm(arch.d_model, arch, dtype)
            self.norm_mlp = norm(arch.d_model, arch, dtype)
        if arch.post_norms:
            self.post_attn = norm(arch.d_model, arch, dtype)
            self.post_mlp = norm(arch.d_model, arch, dtype)

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
        x = at("hook_resid_pre", x)
        h = self.norm_attn(x) if arch.pre_norms else x
        out = self.attn(h, cos, sin, mask, remember, at)
        out = at("hook_attn_out", self.post_attn(out) if arch.post_norms else out)
        mid = x if arch.parallel else at("hook_resid_mid", x + out)
        h = self.norm_mlp(mid) if arch.pre_norms else mid
        act, up = ACTIVATIONS[arch.activation], self.up(h)
        neurons = at("mlp.hook_post", act(self.gate(h)) * up if arch.gated else act(up))
        mlp = self.down(neurons)
        mlp = at("hook_mlp_out", self.post_mlp(mlp) if arch.post_norms else mlp)
        return at("hook_resid_post", mid + out + mlp if arch.parallel else mid + mlp)


class Decoder(nnx.Module):
    """A causal language model.

    Parameters of the layers are stacked along a leading axis of length n_layers and scanned, so
    compile time does not grow with depth.
    """

    def __init__(self, arch: Arch, dtype: jnp.dtype | None = None) -> None:
        dtype = jnp.dtype(jnp.float32) if dtype is None else dtype
        self.arch = arch
        self.embed = nnx.Param(jnp.zeros((arch.vocab_size, arch.d_model), dtype))
        if arch.positions:
            self.positions = nnx.Param(jnp.zeros((arch.positions, arch.d_model), dtype))
        self.blocks = nnx.vmap(
            lambda _: Block(arch, dtype), in_axes=0, out_axes=0, axis_size=arch.n_layers
        )(jnp.arange(arch.n_layers))
        self.norm = norm(arch.d_model, arch, dtype)
        if not arch.tied:
            self.head = Dense(arch.d_model, arch.vocab_size, dtype)

    def embed_tokens(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Token embeddings, scaled as the family does; learned positions are added by the call."""
        x = self.embed[...][tokens]
        # Gemma rounds the factor to the compute dtype.
        return x * jnp.asarray(self.arch.embed_scale, x.dtype) if self.arch.embed_scale != 1 else x

    def embedded(self, inputs: Int[Array, "b t"] | Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Token ids as embeddings; embeddings as they are."""
        return self.embed_tokens(inputs) if inputs.ndim == 2 else inputs

    def logits(self, x: Float[Array, "*b d"]) -> Float[Array, "*b vocab"]:
        """Final norm and unembedding; float32."""
        x = self.norm(x)
        out = matmul(x, self.embed[...].T) if self.arch.tied else self.head(x)
        out, cap = out.astype(jnp.float32), self.arch.logit_softcap
        return out if cap is None else cap * jnp.tanh(out / cap)

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
            x: embedded tokens, from `embed_tokens` or elsewhere.
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
        if arch.positions:
            # A token beyond the table has no position: NaN rather than another token's.
            table = self.positions[...]
            x = x + table.at[positions].get(mode="fill", fill_value=jnp.nan)
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
                    edit = edits[point]
                    vector, strength = pick(edit.vector), pick(edit.strength)
                    value = apply_edit(value, vector, strength, pick(edit.mode), editable)
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
