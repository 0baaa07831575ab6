"""Polar factors by matrix products alone: for accelerators, and for matrices that are sharded.

An iteration maps every singular value towards 1 and cannot tell a small one from noise, so a rank
check comes first.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.on_host import on_host

PRECISIONS = ("float32", "bf16x3")
_CUSHION = 0.024
_EXACT_STEPS = 2


def full_rank(wide: Float64[np.ndarray, "m n"], least: float, mesh: Mesh | None = None) -> bool:
    """Whether every singular value of M is above `least` of the largest, from M M' in float64.

    M M' - (least s_1)^2 I has a Cholesky factor exactly then. s_1 is bounded from above, and a
    check that is too strict costs time only.

    Args:
        wide: M, m <= n.
        least: the cut.
        mesh: spreads the columns over the axis `model`; no device then holds all of M.
    """
    with jax.enable_x64(True):
        return bool(_full_rank(_spread(wide, mesh), jnp.float64(least**2)))


@jax.jit
def _full_rank(matrix: Float[Array, "m n"], square: Float[Array, ""]) -> Bool[Array, ""]:
    gram = jnp.matmul(matrix, matrix.T, precision=lax.Precision.HIGHEST)
    shifted = gram - square * _largest(gram) * jnp.eye(matrix.shape[0], dtype=gram.dtype)
    return jnp.isfinite(jnp.linalg.cholesky(shifted)[-1, -1])


def _spread(wide: np.ndarray, mesh: Mesh | None) -> Array:
    """M on the devices; of a mesh, each has some of the columns. Zero columns fill them up."""
    if mesh is None:
        return jnp.asarray(wide)
    spare = -wide.shape[1] % mesh.shape["model"]
    padded = np.pad(wide, ((0, 0), (0, spare))) if spare else wide
    return jax.device_put(padded, NamedSharding(mesh, PartitionSpec(None, "model")))


def _largest(gram: Float[Array, "m m"]) -> Float[Array, ""]:
    """An upper bound of the largest eigenvalue: the largest column sum of absolute values."""
    return jnp.max(jnp.sum(jnp.abs(gram), axis=0))


@cache
def coefficients(least: float) -> tuple[tuple[float, float, float], ...]:
    """Odd quintic polynomials whose composition maps [least, 1] to 1 within float32's rounding.

    Each is the best one on the interval that the ones before it leave. Below the cushion a
    polynomial is not asked to be optimal: it would then have roots that amplify rounding.

    Source: Amsel, Persson, Musco and Gower, The Polar Express (2025), algorithm 1.
    """
    low, high = least, 1.0
    steps: list[tuple[float, float, float]] = []
    while high - low > 1e-7 and len(steps) < 40:
        a, b, c = _best_quintic(max(low, _CUSHION * high), high)
        ends = [a * x + b * x**3 + c * x**5 for x in (low, high)]
        scale = 2.0 / sum(ends)
        a, b, c = a * scale, b * scale, c * scale
        low = a * low + b * low**3 + c * low**5
        high = 2.0 - low
        steps.append((a, b, c))
    return tuple(steps)


def _best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The a x + b x^3 + c x^5 nearest to 1 on [low, high], by Remez' exchange."""
    if low > high * (1 - 5e-6):  # its limit: the exchange would divide by nothing
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    before, error = -1.0, 0.0
    a = b = c = 0.0
    while abs(error - before) > 1e-15:
        before = error
        points = np.array([low, *inner, high])
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        a, b, c, error = (float(v) for v in np.linalg.solve(system, np.ones(4)))
        root = np.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-1.0, 1.0]) * root) / (10 * c))
    return a, b, c


def polar_express(
    wide: Float64[np.ndarray, "m n"],
    least: float,
    precision: str = "float32",
    mesh: Mesh | None = None,
) -> tuple[Float64[np.ndarray, "m n"], float]:
    """X <- a X + (b A + c A A) X,  A = X X', from X = M / s_1, by minimax polynomials.

    Args:
        wide: M, m <= n, whose singular values are all above `least` of the largest.
        least: the lower end of the first interval.
        precision: of the products: `float32`, or `bf16x3` with the last steps in float32. Single
            bfloat16 or TF32 products diverge.
        mesh: spreads the columns over the axis `model`.

    Returns:
        T, and ||T T' T - T||_F / sqrt(m).
    """
    if precision not in PRECISIONS:
        raise InputError(f"Expected the precision {', '.join(PRECISIONS)}, got '{precision}'.")
    m, n = wide.shape
    scale = np.abs(wide).max()
    x = np.asarray(wide / scale, np.float32)
    placed = _spread(x, mesh)
    # The bound of s_1 below exceeds it by the eighth root of m at most.
    steps = coefficients(least / m**0.125)
    split = None if mesh is None else NamedSharding(mesh, PartitionSpec(None, "model"))
    result, residual = _iterate(placed, steps, precision, split)
    return on_host(result).astype(np.float64)[:, :n], float(residual)


@partial(jax.jit, static_argnames=("steps", "precision", "split"))
def _iterate(
    x: Float32[Array, "m n"],
    steps: tuple[tuple[float, float, float], ...],
    precision: str,
    split: NamedSharding | None = None,
) -> tuple[Float32[Array, "m n"], Float32[Array, ""]]:
    product = _split_product if precision == "bf16x3" else _product
    # An upper bound of s_1 that is close to it: the fourth root of a norm of (X X')^2.
    a = _product(x, x.T)
    bound = jnp.sqrt(jnp.sqrt(_largest(_product(a, a))))
    x = x / (bound * jnp.float32(1.0001))
    for i, (a1, a3, a5) in enumerate(steps):
        multiply = product if i < len(steps) - _EXACT_STEPS else _product
        gram = multiply(x, x.T)
        inner = jnp.float32(a3) * gram + jnp.float32(a5) * multiply(gram, gram)
        x = jnp.float32(a1) * x + multiply(inner, x)
    # Newton-Schulz: the error that float32 left is squared.
    error = _product(x, x.T) - jnp.eye(x.shape[0], dtype=jnp.float32)
    x = x - jnp.float32(0.5) * _product(error, x)
    if split is not None:
        x = lax.with_sharding_constraint(x, split)
    gram = _product(x, x.T)
    off = gram - jnp.eye(x.shape[0], dtype=jnp.float32)
    return x, jnp.linalg.norm(_product(off, gram)) / jnp.sqrt(jnp.float32(x.shape[0]))


def _product(a: Float32[Array, "p q"], b: Float32[Array, "q r"]) -> Float32[Array, "p r"]:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _split_product(a: Float32[Array, "p q"], b: Float32[Array, "q r"]) -> Float32[Array, "p r"]:
    """Three bfloat16 products of high and low parts: 16 bits of each factor."""

    def parts(x: Array) -> tuple[Array, Array]:
        high = lax.reduce_precision(x, 8, 7)  # XLA may not drop this rounding, as it may a cast
        return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)

    def multiply(x: Array, y: Array) -> Array:
        return jnp.matmul(x, y, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32)

    (ah, al), (bh, bl) = parts(a), parts(b)
    return multiply(ah, bh) + (multiply(ah, bl) + multiply(al, bh))


def qdwh(wide: Float64[np.ndarray, "m n"]) -> tuple[Float64[np.ndarray, "m n"], float]:
    """The polar factor by dynamically weighted Halley iterations in float64.

    Args:
        wide: M, m <= n, of full rank.

    Source: Nakatsukasa, Bai and Gygi (2010), as in `jax.lax.linalg.qdwh`.
    """
    with jax.enable_x64(True):
        unitary, *_ = lax.linalg.qdwh(jnp.asarray(wide.T))
        t = np.asarray(unitary).T
    gram = t @ t.T
    return t, float(np.linalg.norm(gram @ gram - gram) / len(wide) ** 0.5)
