"""Orthogonal Procrustes: the minimiser of eq. 2 itself, by Riemannian conjugate gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float64

from atlas_jax.translate.polar import Polar, polar


class ExactProcrustes(NamedTuple):
    """The result of `procrustes_exact`.

    Attributes:
        factor: T, (d_s, d_c).
        rank: of the closed form, within whose row space of M the search stays.
        objective: ||A_s^ - A_c^ T'||_F^2 / ||A_s^||_F^2 at the closed form, and at T.
        steps: taken.
    """

    factor: Float64[np.ndarray, "ds dc"]
    rank: int
    objective: tuple[float, float]
    steps: int


class _State(NamedTuple):
    r: Array
    direction: Array
    gradient: Array
    value: Array
    step: Array
    gain: Array


def procrustes_exact(
    matrix: Float64[np.ndarray, "ds dc"],
    gram: Float64[np.ndarray, "dc dc"],
    energy: float,
    closed: Polar | None = None,
    steps: int = 200,
    tolerance: float = 1e-8,
) -> ExactProcrustes:
    """T = argmin ||A_s^ - A_c^ T'||_F^2 over T T' = I   (eq. 2), from moments.

    f(T) = ||A_s^||^2 - 2 <T, M> + <T C, T>,  M = A_s^' A_c^,  C = A_c^' A_c^

    With d_s < d_c the last term depends on T, and the closed form leaves it out. The search starts
    from the closed form T_0 = U V' and moves R in T = U R, R R' = I: Polak-Ribiere directions in
    the tangent space, the step of the quadratic model along them, retraction by the polar factor.
    It finds a local minimum; f is not convex on this set. With d_s >= d_c the closed form is exact.

    Args:
        matrix: M, (d_s, d_c).
        gram: C, (d_c, d_c), of which the upper triangle is read.
        energy: ||A_s^||_F^2: the number of rows that are not zero.
        closed: the closed form, if known.
        steps: at most.
        tolerance: ends when a step gains less than this share of the objective.

    Source: Edelman, Arias and Smith (1998) for the geometry.
    """
    closed = closed or polar(matrix)
    if not closed.rank or matrix.shape[0] >= matrix.shape[1]:
        start = _objective(closed.factor, matrix, _full(gram), energy)
        return ExactProcrustes(closed.factor, closed.rank, (start, start), 0)
    # T_0 = U V' as U (r columns) and R = U' T_0; the rows of dead features stay exactly zero.
    live = closed.factor.any(axis=1)
    values, vectors = np.linalg.eigh(closed.factor[live] @ closed.factor[live].T)
    u = np.zeros((len(matrix), closed.rank))
    u[live] = vectors[:, values > 0.5]
    with jax.enable_x64(True):
        r, trace, taken = _minimise(
            jnp.asarray(u.T @ closed.factor),
            jnp.asarray(u.T @ matrix),
            jnp.asarray(_full(gram)),
            jnp.asarray(energy, jnp.float64),
            jnp.asarray(tolerance, jnp.float64),
            jnp.asarray(steps, jnp.int32),
        )
        first, last = (float(v) / energy for v in trace)
        return ExactProcrustes(u @ np.asarray(r), closed.rank, (first, last), int(taken))


def _full(gram: np.ndarray) -> np.ndarray:
    return np.triu(gram) + np.triu(gram, 1).T


def _objective(t: np.ndarray, matrix: np.ndarray, gram: np.ndarray, energy: float) -> float:
    return float((energy - 2 * np.sum(t * matrix) + np.sum((t @ gram) * t)) / energy)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _tangent(r: Array, z: Array) -> Array:
    """The part of Z that leaves R R' = I: Z - sym(Z R') R."""
    inner = _product(z, r.T)
    return z - 0.5 * _product(inner + inner.T, r)


def _retract(r: Array, move: Array) -> Array:
    """The polar factor of R + D, D tangent: (R + D)(I + D D')^(-1/2)."""
    values, vectors = jnp.linalg.eigh(_product(move, move.T))
    root = _product(vectors / jnp.sqrt(1.0 + jnp.maximum(values, 0.0))[None, :], vectors.T)
    return _product(root, r + move)


@jax.jit
def _minimise(
    r: Array, m: Array, c: Array, energy: Array, tolerance: Array, steps: Array
) -> tuple[Array, tuple[Array, Array], Array]:
    def evaluate(r: Array) -> tuple[Array, Array]:
        rc = _product(r, c)
        value = energy - 2 * jnp.sum(r * m) + jnp.sum(rc * r)
        return value, _tangent(r, 2 * (rc - m))

    def going(state: _State) -> Array:
        return (state.step < steps) & (state.gain > tolerance * energy)

    def advance(state: _State) -> _State:
        r, d, g = state.r, state.direction, state.gradient
        slope = jnp.sum(g * d)
        d = jnp.where(slope < 0, d, -g)
        slope = jnp.minimum(slope, 0.0) + jnp.where(slope < 0, 0.0, -jnp.sum(g * g))
        # The second derivative along D: <D C, D> and the curvature of the constraint.
        euclidean = 2 * (_product(r, c) - m)
        curved = jnp.sum(_product(euclidean, r.T) * _product(d, d.T))
        second = 2 * jnp.sum(_product(d, c) * d) - curved
        fallback = -slope / (2 * jnp.sum(_product(d, c) * d) + jnp.finfo(d.dtype).tiny)
        size = jnp.where(second > 0, -slope / jnp.where(second > 0, second, 1.0), fallback)

        def attempt(size: Array) -> tuple[Array, Array, Array]:
            new = _retract(r, size * d)
            value, gradient = evaluate(new)
            return new, value, gradient

        def too_long(trial: tuple[Array, tuple[Array, Array, Array], Array]) -> Array:
            _, (_, value, _), count = trial
            return (value > state.value) & (count < 8)

        def shorten(
            trial: tuple[Array, tuple[Array, Array, Array], Array],
        ) -> tuple[Array, tuple[Array, Array, Array], Array]:
            size, _, count = trial
            return size / 4, attempt(size / 4), count + 1

        first = (size, attempt(size), jnp.int32(0))
        _, (new, value, gradient), _ = lax.while_loop(too_long, shorten, first)
        better = value < state.value
        carried, old = _tangent(new, d), _tangent(new, g)
        beta = jnp.sum(gradient * (gradient - old)) / jnp.sum(g * g)
        direction = -gradient + jnp.maximum(beta, 0.0) * carried
        return _State(
            jnp.where(better, new, r),
            direction,
            jnp.where(better, gradient, g),
            jnp.where(better, value, state.value),
            state.step + 1,
            jnp.where(better, state.value - value, 0.0),
        )

    value, gradient = evaluate(r)
    start = _State(r, -gradient, gradient, value, jnp.int32(0), energy)
    end = lax.while_loop(going, advance, start)
    return end.r, (value, end.value), end.step
