"""X'X from the blocks on and above its diagonal, the rest mirrored: half the multiplications.

    G[i, j] = sum over rows of X[:, i]' X[:, j]  for i <= j,    G[j, i] = G[i, j]'

Of m blocks a side, the rows i and m - 1 - i (m - i, where m is odd) of the triangle fill one row of
a rectangle, so the grid holds no block that is left out. Float32 products and sums.

Not measured yet, on any device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Float32

from atlas_jax.kernels.blocks import Platform, call, padded
from atlas_jax.kernels.choice import chosen

_CONTRACT = (((0,), (0,)), ((), ()))


def gram(x: Float[Array, "n c"]) -> Float[Array, "c c"]:
    """X'X in the type of X: by the kernel where it is chosen and X is float32."""
    if x.dtype == jnp.float32 and chosen("gram"):
        return kernel(x, jax.default_backend())
    return reference(x)


def reference(x: Float[Array, "n c"]) -> Float[Array, "c c"]:
    """The same, by one product."""
    return lax.dot_general(
        x, x, _CONTRACT, precision=lax.Precision.HIGHEST, preferred_element_type=x.dtype
    )


def kernel(x: Float32[Array, "n c"], platform: Platform) -> Float32[Array, "c c"]:
    """The same, by Pallas."""
    c = x.shape[1]
    side, step = (128, 32) if platform == "gpu" else (256, 512)
    x = padded(x, step, side)
    # A program on a GPU cannot hand its sums on to the next: it takes all rows.
    rows = x.shape[0] if platform == "gpu" else step
    m = x.shape[1] // side
    odd = m % 2

    def block(i: Any, q: Any) -> tuple[Any, Any]:
        own = q < m - i
        return jnp.where(own, i, m - 1 + odd - i), jnp.where(own, i + q, q - 1 + odd)

    upper = call(
        partial(_kernel, step=step),
        platform,
        8,
        grid=((m + 1) // 2, m + 1 - odd, x.shape[0] // rows),
        in_specs=[
            pl.BlockSpec((rows, side), lambda i, q, k: (k, block(i, q)[0])),
            pl.BlockSpec((rows, side), lambda i, q, k: (k, block(i, q)[1])),
        ],
        out_specs=pl.BlockSpec((side, side), lambda i, q, k: block(i, q)),
        out_shape=jax.ShapeDtypeStruct((m * side, m * side), jnp.float32),
    )(x, x)[:c, :c]
    place = jnp.arange(c, dtype=jnp.int32)
    return jnp.where(place[:, None] <= place[None, :], upper, upper.T)


def _kernel(a, b, out, *, step: int):
    def add(i: Any, total: Any) -> Any:
        rows = pl.ds(i * step, step)
        return total + lax.dot_general(
            a[rows, :],
            b[rows, :],
            _CONTRACT,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    zero = jnp.zeros(out.shape, jnp.float32)
    total = lax.fori_loop(0, a.shape[0] // step, add, zero)
    out[...] = jnp.where(pl.program_id(2) > 0, out[...], zero) + total
