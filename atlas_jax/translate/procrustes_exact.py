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
    """A point R on the manifold with R C, the gradient there, and where to go."""

    r: Array
    rc: Array
    inner: Array
    gradient: Array
    direction: Array
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


def _inverse_root(move: Array) -> Array:
    """(I + D D')^(-1/2): R + D times it is the polar factor of R + D, for a tangent D."""
    values, vectors = jnp.linalg.eigh(_product(move, move.T))
    return _product(vectors / jnp.sqrt(1.0 + jnp.maximum(values, 0.0))[None, :], vectors.T)


@jax.jit
def _minimise(
    r: Array, m: Array, c: Array, energy: Array, tolerance: Array, steps: Array
) -> tuple[Array, tuple[Array, Array], Array]:
    def project(r: Array, z: Array) -> tuple[Array, Array]:
        """The part of Z that leaves R R' = I: Z - S R with S = sym(Z R'), and S."""
        inner = _product(z, r.T)
        inner = 0.5 * (inner + inner.T)
        return z - _product(inner, r), inner

    def evaluate(r: Array, rc: Array) -> tuple[Array, Array, Array]:
        value = energy - 2 * jnp.sum(r * m) + jnp.sum(rc * r)
        gradient, inner = project(r, 2 * (rc - m))
        return value, gradient, inner

    def going(state: _State) -> Array:
        return (state.step < steps) & (state.gain > tolerance * energy)

    def advance(state: _State) -> _State:
        g = state.gradient
        downhill = jnp.sum(g * state.direction) < 0
        d = jnp.where(downhill, state.direction, -g)
        slope = jnp.sum(g * d)
        dc = _product(d, c)
        # The quadratic model along D: <D C, D>, less what the constraint bends.
        plain = 2 * jnp.sum(dc * d)
        second = plain - jnp.sum(state.inner * _product(d, d.T))
        tiny = jnp.finfo(d.dtype).tiny
        size = -slope / jnp.where(second > 0, second, jnp.maximum(plain, tiny))

        def attempt(size: Array) -> tuple[Array, Array, Array, Array, Array]:
            root = _inverse_root(size * d)
            new = _product(root, state.r + size * d)
            rc = _product(root, state.rc + size * dc)
            return new, rc, *evaluate(new, rc)

        def too_long(trial: tuple[Array, tuple[Array, ...], Array]) -> Array:
            _, (_, _, value, *_), count = trial
            return (value > state.value) & (count < 8)

        def shorten(
            trial: tuple[Array, tuple[Array, ...], Array],
        ) -> tuple[Array, tuple[Array, ...], Array]:
            size, _, count = trial
            return size / 4, attempt(size / 4), count + 1

        first = (size, attempt(size), jnp.int32(0))
        _, (new, rc, value, gradient, inner), _ = lax.while_loop(too_long, shorten, first)
        # The old gradient's normal part at the new point is orthogonal to the new gradient.
        beta = jnp.sum(gradient * (gradient - g)) / jnp.sum(g * g)
        direction = jnp.maximum(beta, 0.0) * project(new, d)[0] - gradient
        gain = state.value - value
        moved = _State(new, rc, inner, gradient, direction, value, state.step + 1, gain)
        stuck = state._replace(step=state.step + 1, gain=jnp.zeros_like(gain))
        return jax.tree.map(lambda a, b: jnp.where(gain > 0, a, b), moved, stuck)

    rc = _product(r, c)
    value, gradient, inner = evaluate(r, rc)
    start = _State(r, rc, inner, gradient, -gradient, value, jnp.int32(0), energy)
    end = lax.while_loop(going, advance, start)
    return end.r, (value, end.value), end.step
