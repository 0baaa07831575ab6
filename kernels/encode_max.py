"""The largest value of each sparse feature over the tokens of a text; (B, T, F) is never written.

    out[b, f] = max(0, max over t in mask[b] of a(z[b, t, f])),    z = h W + b
    a(z) = relu(z), or where there are thresholds relu(z) (z > theta)

A program holds one block of features and walks through the tokens of a text: the product, the
threshold, the mask and the maximum happen where the accumulator lies. Float32 throughout.

Not measured yet, on any device. The jnp path of the engine is `atlas_jax.atlas.pooled`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Float32

from atlas_jax.kernels.blocks import Platform, call, padded, power_of_two
from atlas_jax.kernels.choice import chosen


def encode_max(
    h: Float[Array, "b t d"],
    w: Float[Array, "d F"],
    bias: Float[Array, " F"],
    threshold: Float[Array, " F"] | None,
    mask: Bool[Array, "b t"],
) -> Float32[Array, "b F"]:
    """Largest feature values of the tokens in `mask`; 0 for a text that has none.

    NaN in z is NaN in the result (which XLA's own maximum may lose), but with thresholds it is no
    activation: NaN > theta is false.
    """
    if chosen("encode_max"):
        return kernel(h, w, bias, threshold, mask, jax.default_backend())
    return reference(h, w, bias, threshold, mask)


def reference(
    h: Float[Array, "b t d"],
    w: Float[Array, "d F"],
    bias: Float[Array, " F"],
    threshold: Float[Array, " F"] | None,
    mask: Bool[Array, "b t"],
) -> Float32[Array, "b F"]:
    """The same, with all features of all tokens in memory at once."""
    z = jnp.matmul(h, w, precision=lax.Precision.HIGHEST) + bias[None, None]
    f = jax.nn.relu(z)
    if threshold is not None:
        f = jnp.where(z > threshold[None, None], f, 0.0)
    return jnp.max(jnp.where(mask[:, :, None], f, 0.0), axis=1, initial=0.0)


def kernel(
    h: Float[Array, "b t d"],
    w: Float[Array, "d F"],
    bias: Float[Array, " F"],
    threshold: Float[Array, " F"] | None,
    mask: Bool[Array, "b t"],
    platform: Platform,
) -> Float32[Array, "b F"]:
    """The same, by Pallas."""
    (b, t, d), features = h.shape, w.shape[1]
    gpu = platform == "gpu"
    if gpu:  # all tokens in one program, which cannot hand anything on to the next
        step, wide, deep = min(64, power_of_two(t, 16)), 128, 32
        tokens, columns = -(-t // step) * step, (lambda i, j, k: (j, i, k))
    else:  # both blocks, twice, within 12 MiB
        narrow = d <= 4096
        step = tokens = min(128 if narrow else 64, -(-t // 8) * 8)
        wide, deep = (256 if narrow else 128), -(-d // 128) * 128
        columns = lambda i, j, k: (i, j, k)  # noqa: E731
    theta = jnp.zeros_like(bias) if threshold is None else threshold
    h = padded(h, 1, tokens, deep)
    shown = padded(mask.astype(jnp.int32)[:, :, None], 1, tokens, 1)
    w, bias, theta = (padded(x, m, wide) for x, m in ((w, deep), (bias[None], 1), (theta[None], 1)))

    def spec(shape: tuple[int, ...], index: Any) -> pl.BlockSpec:
        """A block by features i, text j and tokens k, whatever the order of the grid."""
        return pl.BlockSpec(shape, lambda *at: index(*columns(*at)))

    one = spec((1, wide), lambda i, j, k: (0, i))
    out = call(
        partial(_kernel, step=step, deep=deep, jump=threshold is not None),
        platform,
        8,
        # The axis that comes last moves first on a TPU, the first one on a GPU: that of the texts,
        # so that a block of W is read once.
        grid=columns(w.shape[1] // wide, b, h.shape[1] // tokens),
        in_specs=[
            spec((1, tokens, h.shape[2]), lambda i, j, k: (j, k, 0)),
            spec((h.shape[2], wide), lambda i, j, k: (0, i)),
            one,
            one,
            spec((1, tokens, 1), lambda i, j, k: (j, k, 0)),
        ],
        out_specs=spec((1, 1, wide), lambda i, j, k: (j, 0, i)),
        out_shape=jax.ShapeDtypeStruct((b, 1, w.shape[1]), jnp.float32),
    )(h, w, bias, theta, shown)
    return out[:, 0, :features]


def _kernel(h, w, bias, theta, mask, out, *, step: int, deep: int, jump: bool):
    wide = w.shape[1]

    def over_tokens(i: Any, best: Any) -> Any:
        rows = pl.ds(i * step, step)

        def over_width(j: Any, z: Any) -> Any:
            part = pl.ds(j * deep, deep)
            return z + jnp.dot(
                h[0, rows, part],
                w[part, :],
                precision=lax.Precision.HIGHEST,
                preferred_element_type=jnp.float32,
            )

        z = lax.fori_loop(0, h.shape[2] // deep, over_width, jnp.zeros((step, wide), jnp.float32))
        z = z + bias[...]
        f = jnp.where((z > theta[...]) & (z > 0), z, 0.0) if jump else jnp.where(z <= 0, 0.0, z)
        f = jnp.where(mask[0, rows, :] > 0, f, 0.0)
        found = jnp.max(f, axis=0, keepdims=True)
        if not jump:  # the maximum of Triton passes over NaN
            lost = jnp.max((f != f).astype(jnp.int32), axis=0, keepdims=True)
            found = jnp.where(lost > 0, jnp.nan, found)
        return _larger(best, found)

    zero = jnp.zeros((1, wide), jnp.float32)
    best = lax.fori_loop(0, h.shape[1] // step, over_tokens, zero)
    before = jnp.where(pl.program_id(2) > 0, out[0], zero)
    out[0] = _larger(before, best)


def _larger(a: Any, b: Any) -> Any:
    """The larger of both, or NaN where one is."""
    return jnp.where((a > b) | (a != a), a, b)
