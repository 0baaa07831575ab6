"""Encoding and pooling in one pass: the features of all tokens at once, (B, T, F), never exist.

Features are taken in blocks of width F_b, so that a block's activations (B, T, F_b) and its columns
of W_enc (d, F_b) each stay within `BLOCK_BYTES`. Every pooling works on each feature alone, so a
block is encoded, pooled to (B, F_b) and forgotten. The k largest of a token (topk) are found in a
first pass over the same blocks, each block's own k merged with the k so far, equals by the lower
feature as `lax.top_k` has them; a second pass spreads them out block by block. Of several devices
that have features of their own, each finds its k largest, and all the k largest of these.

    temporary memory <= 4 BLOCK_BYTES + 16 B T (d + 2 k) bytes, whatever F is
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.activations.pool import after_first, pool_max
from atlas_jax.atlas.sae import SAE, matmul, normalise
from atlas_jax.errors import InputError
from atlas_jax.kernels import chosen, encode_max

BLOCK_BYTES = 32 * 2**20

FEATURES = {
    "W_enc": P(None, "model"),
    "b_enc": P("model"),
    "W_dec": P("model"),
    "b_dec": P(),
    "threshold": P("model"),
}
"""How an autoencoder is split by features."""

Pool = Callable[[Float[Array, "b t f"], Bool[Array, "b t"]], Float[Array, "*rest f"]]


def encode_pooled(
    sae: SAE,
    x: Float[Array, "b t d"],
    content: Bool[Array, "b t"],
    mask: Bool[Array, "b t"],
    pool: Pool,
    block_bytes: int = BLOCK_BYTES,
    axis: str | None = None,
) -> Float[Array, "*rest F"]:
    """`pool` of the features of x, zero where `content` is false.

    Args:
        sae: the autoencoder.
        x: activations.
        content: where features are read at all.
        mask: what `pool` is told: the real tokens.
        pool: (B, T, f), (B, T) -> (B, f), the same on each feature alone; several of them may
            come stacked, (P, B, f).
        block_bytes: bound of a block.
        axis: of a mesh, within `shard_map`, over which devices have the other features, in order.

    Raises:
        InputError: a batch-top-k autoencoder, whose features depend on the rest of the batch.
    """
    if sae.architecture == "batchtopk":
        raise InputError(
            "Expected an autoencoder that reads each token alone, got batchtopk: give it a "
            "threshold and use it as jumprelu."
        )
    h = normalise(sae, x)
    if pool is pool_max and sae.k is None and chosen("encode_max"):
        kept = after_first(mask)
        found = encode_max(h, sae.W_enc, sae.b_enc, sae.threshold, content & kept)
        return jnp.where(jnp.any(kept, axis=1, keepdims=True), found, -jnp.inf)
    width = block_width(sae.n_features, h.shape[0] * h.shape[1], h.shape[2], block_bytes)
    width = max(width, min(sae.k or 1, sae.n_features))
    shown = content[:, :, None]
    if sae.architecture == "topk":
        values, features = _largest(sae, h, width)
        if axis is not None:
            values, features = _largest_of_all(sae, values, features, axis)
        values = jnp.where(shown, values, 0.0)

        def block(start: Int[Array, ""]) -> Float[Array, "b t f"]:
            return _spread(values, features - start, width)
    else:

        def block(start: Int[Array, ""]) -> Float[Array, "b t f"]:
            return jnp.where(shown, _encode_block(sae, h, start, width), 0.0)

    def step(i: Int[Array, ""], out: Float[Array, "*rest F"]) -> Float[Array, "*rest F"]:
        start = jnp.minimum(i * width, sae.n_features - width)
        pooled = pool(block(start), mask)
        return lax.dynamic_update_slice_in_dim(out, pooled, start, out.ndim - 1)

    one = jax.eval_shape(lambda: pool(block(jnp.int32(0)), mask))
    zeros = jnp.zeros((*one.shape[:-1], sae.n_features), one.dtype)
    return lax.fori_loop(0, -(-sae.n_features // width), step, zeros)


def encode_pooled_apart(
    sae: SAE,
    x: Float[Array, "b t d"],
    content: Bool[Array, "b t"],
    mask: Bool[Array, "b t"],
    pool: Pool,
    mesh: Mesh,
) -> Float[Array, "*rest F"]:
    """`encode_pooled` where each device has features of its own, over the axis `model`.

    A device encodes and pools the features that it has. Only the k largest of each token are sent
    around, where features compete (topk).

    Args:
        sae: laid out as `features_apart` says.
        x: activations.
        content: where features are read at all.
        mask: what `pool` is told.
        pool: see `encode_pooled`.
        mesh: of the autoencoder.
    """
    one = jax.eval_shape(lambda: encode_pooled(sae, x, content, mask, pool))
    rows = "data" if x.shape[0] % mesh.shape["data"] == 0 else None
    specs = {name: spec for name, spec in FEATURES.items() if getattr(sae, name) is not None}

    def local(parts: dict[str, Array], x: Array, content: Array, mask: Array) -> Array:
        return encode_pooled(replace(sae, **parts), x, content, mask, pool, axis="model")

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, P(rows), P(rows), P(rows)),
        out_specs=P(*[None] * (one.ndim - 2), rows, "model"),
        check_vma=False,  # rows are computed alike on every part of `model`
    )
    return mapped({name: getattr(sae, name) for name in specs}, x, content, mask)


def features_apart(sae: SAE, mesh: Mesh | None) -> bool:
    """Whether the features can be split over `model`: no token needs another's, and they divide."""
    parts = 1 if mesh is None else mesh.shape["model"]
    return parts > 1 and sae.architecture != "batchtopk" and sae.n_features % parts == 0


def block_width(n_features: int, tokens: int, d: int, block_bytes: int) -> int:
    """F_b: a multiple of 128 where there is room, all features where they fit."""
    most = max(1, block_bytes // (4 * max(tokens, d, 1)))
    if most >= n_features:
        return n_features
    return most - most % 128 or most


def _columns(a: Array, start: Int[Array, ""], width: int) -> Array:
    return lax.dynamic_slice_in_dim(a, start, width, a.ndim - 1)


def _encode_block(
    sae: SAE, h: Float[Array, "b t d"], start: Int[Array, ""], width: int
) -> Float[Array, "b t f"]:
    """relu(z), cut at the threshold where there is one, of `width` features from `start`."""
    z = matmul(h, _columns(sae.W_enc, start, width))
    z = z + _columns(sae.b_enc, start, width)[None, None]
    f = jax.nn.relu(z)
    if sae.threshold is None:
        return f
    return jnp.where(z > _columns(sae.threshold, start, width)[None, None], f, 0.0)


def _largest(
    sae: SAE, h: Float[Array, "b t d"], width: int
) -> tuple[Float[Array, "b t k"], Int[Array, "b t k"]]:
    """The k largest relu(z) of each token and their features; all, where there are fewer."""
    k = min(sae.k or 1, sae.n_features)

    def step(
        i: Int[Array, ""], best: tuple[Float[Array, "b t k"], Int[Array, "b t k"]]
    ) -> tuple[Float[Array, "b t k"], Int[Array, "b t k"]]:
        start = jnp.minimum(i * width, sae.n_features - width)
        f = _encode_block(sae, h, start, width)
        # The last block reaches back into the one before: those were counted.
        fresh = start + jnp.arange(width, dtype=jnp.int32) >= i * width
        values, where = lax.top_k(jnp.where(fresh[None, None], f, -1.0), k)
        values = jnp.concatenate([best[0], values], axis=-1)
        features = jnp.concatenate([best[1], where + start], axis=-1)
        values, where = lax.top_k(values, k)
        return values, jnp.take_along_axis(features, where, axis=-1)

    shape = (*h.shape[:2], k)
    start = (jnp.full(shape, -1.0, jnp.float32), jnp.zeros(shape, jnp.int32))
    return lax.fori_loop(0, -(-sae.n_features // width), step, start)


def _largest_of_all(
    sae: SAE, values: Float[Array, "b t k"], features: Int[Array, "b t k"], axis: str
) -> tuple[Float[Array, "b t top"], Int[Array, "b t top"]]:
    """The k largest of what all devices found; features are counted from this device's first.

    Candidates come in the order of the devices, and with it of the features: among equals,
    `lax.top_k` takes the lower feature here too.
    """
    first = lax.axis_index(axis) * sae.n_features
    values = lax.all_gather(values, axis, axis=2, tiled=True)
    features = lax.all_gather(features + first, axis, axis=2, tiled=True)
    values, where = lax.top_k(values, sae.k or 1)
    return values, jnp.take_along_axis(features, where, axis=-1) - first


def _spread(
    values: Float[Array, "b t k"], places: Int[Array, "b t k"], width: int
) -> Float[Array, "b t f"]:
    """Values at their places in rows of zeros; places outside of the row are left out."""
    b, t, _ = values.shape
    # A negative index would count from the end.
    places = jnp.where((places >= 0) & (places < width), places, width)
    rows, columns = jnp.arange(b)[:, None, None], jnp.arange(t)[None, :, None]
    zeros = jnp.zeros((b, t, width), values.dtype)
    return zeros.at[rows, columns, places].set(values, mode="drop")
