"""The orthogonal polar factor of a matrix, of a rank found by a cut."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg
from jax.sharding import Mesh
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.polar_iteration import full_rank, polar_express, qdwh

POLAR = ("auto", "gram", "polar_express", "qdwh", "svd")
_NEAR = 1.5
_SMALL = 1e-8
"""An error that float32 does not show."""
_EPS = np.finfo(np.float64).eps


class Polar(NamedTuple):
    """The result of `polar`.

    Attributes:
        factor: T, (m, n); T T' (m <= n) or T' T (m > n) is an orthogonal projector of that rank.
        rank: number of singular values above the cut.
        residual: ||T T' T - T||_F / sqrt(rank): how far T is from a partial isometry.
        method: `gram`, `polar_express`, `qdwh` or `svd`.
    """

    factor: Float64[np.ndarray, "m n"]
    rank: int
    residual: float
    method: str


def polar(
    matrix: Float64[np.ndarray, "m n"],
    method: str = "auto",
    rcond: float = 3e-7,
    precision: str = "float32",
    mesh: Mesh | None = None,
) -> Polar:
    """The minimum-norm partial isometry T that maximises <T, M>.

    M = U S V'  ->  T = U_r V_r', with the r singular values above rcond * s_1.

    The cut is not cosmetic: completing the null space of dead or dependent features by arbitrary
    directions, as an uncut SVD does, adds noise to every query. Zero rows and columns of M stay
    exactly zero in T.

    Args:
        matrix: M, finite.
        method: `gram` decomposes the smaller of M M' and M' M in float64, which resolves
            singular values down to about 1e-7 of the largest; `svd` is slower and resolves all;
            `polar_express` and `qdwh` iterate with matrix products on the accelerator. Iterations
            cannot cut: where a singular value may lie below ten times the cut, `gram` takes over;
            where one lies within 1.5 times of the cut, `svd` does. `auto` is `gram` on a CPU and
            `polar_express` elsewhere.
        rcond: the cut. 3e-7 suits float32 activations, 1e-5 those rounded to bfloat16.
        precision: of the products of `polar_express`: `float32`, or `bf16x3`, three bfloat16
            products for each, with two last steps in float32.
        mesh: spreads the columns of `polar_express` over the axis `model`.

    Raises:
        InputError: M is not finite, or an unknown method.

    Source: Higham, Functions of Matrices (2008), theorem 8.1 and section 8.
    """
    if method not in POLAR:
        raise InputError(f"Expected the polar method {', '.join(POLAR)}, got '{method}'.")
    if not np.isfinite(matrix).all():
        raise InputError("Expected a finite matrix for the polar factor, got NaN or infinity.")
    rows, columns = (np.flatnonzero(matrix.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return Polar(np.zeros(matrix.shape), 0, 0.0, method)
    whole = len(rows) == matrix.shape[0] and len(columns) == matrix.shape[1]
    core = matrix if whole else matrix[np.ix_(rows, columns)]
    wide = core if core.shape[0] <= core.shape[1] else core.T
    if method == "auto":
        method = "gram" if mesh is None and jax.default_backend() == "cpu" else "polar_express"
    found = _solve(wide, method, rcond, precision, mesh)
    inner = found.factor if wide is core else found.factor.T
    if whole:
        return found._replace(factor=inner)
    factor = np.zeros(matrix.shape)
    factor[np.ix_(rows, columns)] = inner
    return found._replace(factor=factor)


def _solve(wide: np.ndarray, method: str, rcond: float, precision: str, mesh: Mesh | None) -> Polar:
    if method == "svd":
        return _by_svd(wide, rcond)
    if method == "gram" or not full_rank(wide, 10 * rcond, mesh):
        return _by_gram(wide, rcond)
    if method == "qdwh":
        factor, residual = qdwh(wide)
    else:
        factor, residual = polar_express(wide, 10 * rcond, precision, mesh)
    return Polar(factor, len(wide), residual, method)


def _by_svd(wide: np.ndarray, rcond: float) -> Polar:
    u, s, vt = scipy.linalg.svd(wide, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    factor = u[:, :rank] @ vt[:rank]
    gram = factor @ factor.T
    residual = np.linalg.norm(gram @ gram - gram) / max(rank, 1) ** 0.5
    return Polar(factor, rank, float(residual), "svd")


def _by_gram(wide: np.ndarray, rcond: float) -> Polar:
    """U_r S_r^-1 U_r' M from M M' = U S^2 U'; by SVD where a singular value lies near the cut."""
    squares, u = scipy.linalg.eigh(wide @ wide.T, driver="evd", overwrite_a=True)
    s = np.sqrt(np.maximum(squares, 0.0))
    cut = rcond * s[-1]
    # Below 1e-7 of the largest a Gram matrix in float64 holds only rounding; at 3e-7 it knows a
    # singular value to some eps / 1e-13, a hundredth: less than the rows' rounding leaves of it.
    noise = 1e-7 * s[-1]
    if cut < noise or ((s > max(cut / _NEAR, noise)) & (s < _NEAR * cut)).any():
        return _by_svd(wide, rcond)
    keep = s > cut
    u, s = u[:, keep], s[keep]
    half = u / np.sqrt(s)
    factor = (half @ half.T) @ wide
    # An eigenvalue is off by eps of the largest, so a singular value of T by eps (s_1 / s)^2.
    expected = float(_EPS * np.sqrt(np.mean((s[-1] / s) ** 4)))
    if expected < _SMALL:
        return Polar(factor, len(s), expected, "gram")
    # One Newton-Schulz step squares that error: T - E T / 2, E = T T' - U U'. E is small, so that
    # float32 is enough for its product.
    error = factor @ factor.T
    error -= u @ u.T if len(s) < len(u) else np.eye(len(u))
    step = error.astype(np.float32) @ factor.astype(np.float32)
    step *= np.float32(0.5)
    factor -= step
    size = float(np.linalg.norm(error))
    return Polar(factor, len(s), 0.75 * size**2 / len(s) ** 0.5 + _EPS, "gram")
