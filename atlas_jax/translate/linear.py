"""Covariance, correlation, linear regression and ridge, from moments."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.moments import AtlasMoments, SiteMoments

_BLOCK = 64
_EPS = np.finfo(np.float64).eps
_CONSTANT = 5e-8
"""What rounding makes of a standard deviation of zero: sqrt(11 eps), in units of the mean."""
_RESOLVED = 1e-6
_potrf, _pocon = scipy.linalg.get_lapack_funcs(("potrf", "pocon"), dtype="f8")
(_trsm,) = scipy.linalg.get_blas_funcs(("trsm",), dtype="f8")


def covariance(n: int, site: SiteMoments, atlas: AtlasMoments) -> Float32[np.ndarray, "ds dc"]:
    """T = (A_s - mean)' (A_c - mean) / n   (eq. 6; the paper omits 1/n, which scores ignore).

    A feature that is constant on the samples gives a row or column of exact zeros: scores divide
    each row by its length, and would make rounding as large as a finding.
    """
    live = ((_inverse_deviation(n, side, _CONSTANT) > 0) for side in (site, atlas))
    return _centred(n, site, atlas, *(side.astype(np.float64) for side in live))


def correlation(n: int, site: SiteMoments, atlas: AtlasMoments) -> Float32[np.ndarray, "ds dc"]:
    """T = D_s^-1 (A_s - mean)' (A_c - mean) D_c^-1 / n   (eq. 7).

    A feature that is constant on the samples gives a zero row or column. One counts as constant
    when its standard deviation is below 1e-6 of its mean: float32 activations resolve no less.
    """
    scales = (_inverse_deviation(n, side, _RESOLVED) for side in (site, atlas))
    return _centred(n, site, atlas, *scales)


def _centred(
    n: int,
    site: SiteMoments,
    atlas: AtlasMoments,
    scale_subject: Float64[np.ndarray, " ds"],
    scale_atlas: Float64[np.ndarray, " dc"],
) -> Float32[np.ndarray, "ds dc"]:
    """The centred product over n, scaled; a block at a time, so that it stays in the cache."""
    assert site.cross is not None
    mean = site.total / n
    result = np.empty((len(site.total), len(atlas.total)), np.float32)
    for start in range(0, len(atlas.total), _BLOCK):
        part = slice(start, start + _BLOCK)
        block = site.cross[part] / n
        block -= np.outer(atlas.total[part] / n, mean)
        block *= scale_subject
        block *= scale_atlas[part, None]
        result[:, part] = block.T
    return result


def _inverse_deviation(
    n: int, side: SiteMoments | AtlasMoments, least: float
) -> Float64[np.ndarray, " d"]:
    """1 / standard deviation, 0 where that is at most `least` of the mean."""
    mean = side.total / n
    deviation = np.sqrt(np.maximum(side.squares / n - mean**2, 0.0))
    live = deviation > least * np.abs(mean)
    return np.where(live, 1.0 / np.where(live, deviation, 1.0), 0.0)


class Gram:
    """The atlas Gram matrix C = A_c' A_c and its factors, each computed once for all sites.

    Args:
        matrix: (d_c, d_c), float64, of which the upper triangle is read.
    """

    def __init__(self, matrix: Float64[np.ndarray, "dc dc"]) -> None:
        self.matrix, self.width = matrix, len(matrix)
        self.live = np.flatnonzero(np.diag(matrix) > 0)

    @property
    def scale(self) -> float:
        """Mean of the diagonal: the unit of relative penalties."""
        return float(np.trace(self.matrix)) / max(self.width, 1)

    @cached_property
    def core(self) -> Float64[np.ndarray, "l l"]:
        """C of the live features, its upper triangle."""
        whole = len(self.live) == self.width
        return self.matrix if whole else self.matrix[np.ix_(self.live, self.live)]

    @cached_property
    def spectrum(self) -> tuple[Float64[np.ndarray, " l"], Float64[np.ndarray, "l l"]]:
        """Eigenvalues, rising, and eigenvectors of `core`."""
        return scipy.linalg.eigh(self.core, lower=False, driver="evd")

    @cached_property
    def kept(self) -> Bool[np.ndarray, " l"]:
        """The eigenvalues that count.

        Float64 resolves eigenvalues to d_c * eps of the largest; a wider cut drops real, rare
        features, whose scales differ by orders of magnitude.
        """
        values, _ = self.spectrum
        return values > self.width * _EPS * max(values[-1] if len(values) else 0.0, 0.0)

    @cached_property
    def _full_rank(self) -> Float64[np.ndarray, "l l"] | None:
        """The Cholesky factor where no eigenvalue can be near the cut, else None.

        1 / (||C||_1 ||C^-1||_1), which LAPACK estimates from the factor, bounds the ratio of the
        extreme eigenvalues from below; the factor 10 covers the estimate's error.
        """
        factor, failed = _potrf(self.core, lower=0, clean=0)
        if failed:
            return None
        rcond, _ = _pocon(factor, _symmetric_norm(self.core))
        return factor if rcond > 10 * self.width * _EPS else None

    @property
    def rank(self) -> int:
        """Number of eigenvalues that count."""
        if not self.live.size:
            return 0
        if "spectrum" not in self.__dict__ and self._full_rank is not None:
            return len(self.live)
        return int(self.kept.sum())

    def solve(
        self, cross: Float64[np.ndarray, "dc ds"], alpha: float = 0.0
    ) -> Float64[np.ndarray, "ds dc"]:
        """((C + alpha I)^-1 A_c' A_s)', at alpha = 0 with the pseudo-inverse.

        By Cholesky where the matrix has full rank, by its eigenvectors where it has not.
        """
        if not self.live.size:  # every row of the atlas is zero
            return np.zeros((cross.shape[1], self.width))
        whole = len(self.live) == self.width
        right = cross if whole else cross[self.live]
        factor = self._full_rank if alpha == 0 else self._penalised(alpha)
        if factor is not None:  # C = U' U, from the right: that is the order in memory
            solved = _trsm(1.0, factor, right.T, side=1)
            solved = _trsm(1.0, factor, solved, side=1, trans_a=1, overwrite_b=1)
        else:
            values, vectors = self.spectrum
            q = vectors[:, self.kept]
            solved = ((right.T @ q) / (values[self.kept] + alpha)) @ q.T
        if whole:
            return solved
        result = np.zeros((cross.shape[1], self.width))
        result[:, self.live] = solved
        return result

    def _penalised(self, alpha: float) -> Float64[np.ndarray, "l l"] | None:
        penalised = self.core.copy(order="F")
        penalised[np.diag_indices(len(penalised))] += alpha
        factor, failed = _potrf(penalised, lower=0, clean=0, overwrite_a=1)
        return None if failed else factor


def _symmetric_norm(upper: Float64[np.ndarray, "l l"]) -> float:
    """||C||_1 from the upper triangle of C."""
    total = np.zeros(len(upper))
    for start in range(0, len(upper), _BLOCK):
        rows = np.abs(np.triu(upper[start : start + _BLOCK, start:]))
        total[start:] += rows.sum(axis=0)
        part = np.arange(len(rows))
        total[start : start + _BLOCK] += rows.sum(axis=1) - rows[part, part]
    return float(total.max())


def linear_regression(
    cross: Float64[np.ndarray, "dc ds"], gram: Gram
) -> Float64[np.ndarray, "ds dc"]:
    """T = argmin ||A_s - A_c T'||_F = A_s' A_c (A_c' A_c)^+   (eq. 8), of minimum norm.

    `cross` is A_c' A_s, not centred: no intercept, as in the paper. Where samples are
    fewer than atlas features, the solution that interpolates them with the least norm.
    """
    return gram.solve(cross)


def ridge(
    cross: Float64[np.ndarray, "dc ds"], gram: Gram, alpha: float
) -> Float64[np.ndarray, "ds dc"]:
    """T = argmin ||A_s - A_c T'||^2 + alpha ||T||^2 = A_s' A_c (A_c' A_c + alpha I)^-1.

    Raises:
        InputError: a negative alpha.
    """
    if not alpha >= 0:
        raise InputError(f"Expected alpha >= 0, got {alpha}.")
    return gram.solve(cross, alpha)
