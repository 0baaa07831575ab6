"""The orthogonal polar factor of a matrix, of a rank found by a cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from atlas_jax.errors import InputError


class Polar(NamedTuple):
    """The result of `polar`.

    Attributes:
        factor: T, (m, n); T T' (m <= n) or T' T (m > n) is an orthogonal projector of that rank.
        rank: number of singular values above the cut.
        residual: ||T T' T - T||_F / sqrt(rank): how far T is from a partial isometry.
        method: `gram` or `svd`.
    """

    factor: Float64[np.ndarray, "m n"]
    rank: int
    residual: float
    method: str


def polar(matrix: Float64[np.ndarray, "m n"], method: str = "auto", rcond: float = 3e-7) -> Polar:
    """The minimum-norm partial isometry T that maximises <T, M>.

    M = U S V'  ->  T = U_r V_r', with the r singular values above rcond * s_1.

    The cut is not cosmetic: completing the null space of dead or dependent features by arbitrary
    directions, as an uncut SVD does, adds noise to every query. Zero rows and columns of M stay
    exactly zero in T.

    Args:
        matrix: M, finite.
        method: `gram` decomposes the smaller of M M' and M' M in float64, which resolves
            singular values down to about 1e-7 of the largest; `svd` is slower and resolves all;
            `auto` is `gram`, and `svd` when a singular value lies within ten times of the cut.
        rcond: the cut. 3e-7 suits float32 activations, 1e-5 those rounded to bfloat16.

    Raises:
        InputError: M is not finite, or an unknown method.

    Source: Higham, Functions of Matrices (2008), theorem 8.1 and section 8.
    """
    if method not in ("auto", "gram", "svd"):
        raise InputError(f"Expected the polar method auto, gram or svd, got '{method}'.")
    if not np.isfinite(matrix).all():
        raise InputError("Expected a finite matrix for the polar factor, got NaN or infinity.")
    rows, columns = (np.flatnonzero(matrix.any(axis=axis)) for axis in (1, 0))
    factor = np.zeros(matrix.shape)
    if not rows.size:
        return Polar(factor, 0, 0.0, method)
    core = matrix[np.ix_(rows, columns)]
    wide = core if core.shape[0] <= core.shape[1] else core.T
    if method == "svd":
        inner, rank = _by_svd(wide, rcond)
    else:
        inner, rank, near = _by_gram(wide, rcond)
        if method == "auto" and near:
            inner, rank = _by_svd(wide, rcond)
            method = "svd"
        else:
            method = "gram"
    residual = _residual(inner, rank)
    factor[np.ix_(rows, columns)] = inner if wide is core else inner.T
    return Polar(factor, rank, residual, method)


def _residual(t: np.ndarray, rank: int) -> float:
    """||T T' T - T||_F = sqrt(tr((G - I)^2 G)) with the small Gram matrix G = T T'."""
    g = t @ t.T
    off = g - np.eye(len(g))
    return float((max(np.sum((off @ off) * g), 0.0) / max(rank, 1)) ** 0.5)


def _by_svd(wide: np.ndarray, rcond: float) -> tuple[np.ndarray, int]:
    u, s, vt = scipy.linalg.svd(wide, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return u[:, :rank] @ vt[:rank], rank


def _by_gram(wide: np.ndarray, rcond: float) -> tuple[np.ndarray, int, bool]:
    """U_r S_r^-1 U_r' M from M M' = U S^2 U'; also whether a singular value lies near the cut."""
    squares, u = scipy.linalg.eigh(wide @ wide.T, driver="evd")
    s = np.sqrt(np.maximum(squares, 0.0))
    cut = rcond * s[-1]
    # Below 1e-7 of the largest a Gram matrix in float64 holds only rounding.
    noise = 1e-7 * s[-1]
    near = bool(((s > max(cut / 10, noise)) & (s < 10 * cut)).any() or cut < noise)
    keep = s > cut
    u, s = u[:, keep], s[keep]
    factor = (u / s) @ (u.T @ wide)
    # One Newton-Schulz step squares the error that small singular values leave.
    factor = 1.5 * factor - 0.5 * (factor @ factor.T) @ factor
    return factor, int(keep.sum()), near
