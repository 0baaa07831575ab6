"""Orthogonal Procrustes: the closed form."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from atlas_jax.translate.polar import Polar, polar


def procrustes(
    unit_cross: Float64[np.ndarray, "ds dc"], method: str = "auto", rcond: float = 3e-7
) -> Polar:
    """T = polar(M), M = A_s^' A_c^ with rows of unit length   (eq. 2, closed form).

    T maximises <T, M> over partial isometries. It minimises eq. 2, ||A_s^ - A_c^ T'||_F, when
    d_s >= d_c; when d_s < d_c the norm of A_c^ T' depends on T too, and the closed form is what
    the paper uses. d_s <= d_c: T T' = I on the live features. d_s > d_c: that constraint has no
    solution, and T' T = I instead.

    Args:
        unit_cross: M, (d_s, d_c).
        method: of `polar`.
        rcond: rank cut of `polar`.
    """
    return polar(unit_cross, method, rcond)
