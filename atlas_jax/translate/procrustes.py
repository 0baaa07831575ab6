"""Orthogonal Procrustes: the closed form."""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float64

from atlas_jax.translate.moments import AtlasMoments, SiteMoments
from atlas_jax.translate.polar import Polar, polar


def unit_cross(
    n: int, site: SiteMoments, atlas: AtlasMoments, center: bool = False
) -> Float64[np.ndarray, "ds dc"]:
    """M = A_s^' A_c^ with rows of unit length; if `center`, less n times the product of means."""
    assert site.unit is not None
    if not center:
        return site.unit.T
    return (site.unit - np.outer(atlas.unit_total, site.unit_total / n)).T


def procrustes(
    matrix: Float64[np.ndarray, "ds dc"],
    method: str = "auto",
    rcond: float = 3e-7,
    precision: str = "float32",
    mesh: Mesh | None = None,
) -> Polar:
    """T = polar(M), M = A_s^' A_c^ with rows of unit length   (eq. 2, closed form).

    T maximises <T, M> over partial isometries. It minimises eq. 2, ||A_s^ - A_c^ T'||_F, when
    d_s >= d_c; when d_s < d_c the norm of A_c^ T' depends on T too, and the closed form is what
    the paper uses. d_s <= d_c: T T' = I on the live features. d_s > d_c: that constraint has no
    solution, and T' T = I instead.

    Args:
        matrix: M, (d_s, d_c).
        method: of `polar`, as are the others.
    """
    return polar(matrix, method, rcond, precision, mesh)
