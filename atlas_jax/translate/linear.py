"""Covariance, correlation, linear regression and ridge, from moments."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.moments import CrossMoments


def covariance(moments: CrossMoments) -> Float64[np.ndarray, "ds dc"]:
    """T = (A_s - mean)' (A_c - mean) / n   (eq. 6; the paper omits 1/n, which scores ignore)."""
    return moments.covariance


def correlation(moments: CrossMoments) -> Float64[np.ndarray, "ds dc"]:
    """T = D_s^-1 (A_s - mean)' (A_c - mean) D_c^-1 / n   (eq. 7).

    A feature that is constant on the samples gives a zero row or column. One counts as constant
    when its standard deviation is below 1e-6 of its mean: float32 activations resolve no less.
    """
    s = _inverse_deviation(moments.variance_subject, moments.mean_subject)
    c = _inverse_deviation(moments.variance_atlas, moments.mean_atlas)
    return s[:, None] * moments.covariance * c[None, :]


def _inverse_deviation(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(variance)
    live = deviation > 1e-6 * np.abs(mean)
    return np.where(live, 1.0 / np.where(live, deviation, 1.0), 0.0)


class GramSpectrum:
    """Eigenvalues w and eigenvectors Q of the atlas Gram C = A_c' A_c, for all subject sites.

    Args:
        gram: (d_c, d_c), float64.
    """

    def __init__(self, gram: Float64[np.ndarray, "dc dc"]) -> None:
        self.live = np.flatnonzero(np.diag(gram) > 0)
        self.width = len(gram)
        block = gram if len(self.live) == self.width else gram[np.ix_(self.live, self.live)]
        self.values, self.vectors = scipy.linalg.eigh(block, overwrite_a=True, driver="evd")
        top = self.values[-1] if len(self.values) else 0.0
        # Float64 resolves eigenvalues to d * eps of the largest; a wider cut drops real, rare
        # features, whose scales differ by orders of magnitude.
        self.kept = self.values > self.width * np.finfo(np.float64).eps * max(top, 0.0)

    @property
    def rank(self) -> int:
        """Number of eigenvalues above the cut."""
        return int(self.kept.sum())

    def solve(
        self, cross: Float64[np.ndarray, "ds dc"], alpha: float = 0.0
    ) -> Float64[np.ndarray, "ds dc"]:
        """B (C + alpha I)^-1, at alpha = 0 with the pseudo-inverse."""
        if self.live.size == 0:
            return np.zeros_like(cross)
        q = self.vectors[:, self.kept]
        inner = (cross[:, self.live] @ q) / (self.values[self.kept] + alpha)
        result = np.zeros_like(cross)
        result[:, self.live] = inner @ q.T
        return result


def linear_regression(
    cross: Float64[np.ndarray, "ds dc"], spectrum: GramSpectrum
) -> Float64[np.ndarray, "ds dc"]:
    """T = argmin ||A_s - A_c T'||_F = A_s' A_c (A_c' A_c)^+   (eq. 8), of minimum norm.

    `cross` is A_s' A_c, not centred: no intercept, as in the paper. Where samples are
    fewer than atlas features, the solution that interpolates them with the least norm.
    """
    return spectrum.solve(cross)


def ridge(
    cross: Float64[np.ndarray, "ds dc"], spectrum: GramSpectrum, alpha: float
) -> Float64[np.ndarray, "ds dc"]:
    """T = argmin ||A_s - A_c T'||^2 + alpha ||T||^2 = A_s' A_c (A_c' A_c + alpha I)^-1.

    Raises:
        InputError: a negative alpha.
    """
    if not alpha >= 0:
        raise InputError(f"Expected alpha >= 0, got {alpha}.")
    return spectrum.solve(cross, alpha)
