"""How alike two translations of the same subject and atlas are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.translation import Translation

_RCOND = 1e-5


class Comparison(NamedTuple):
    """The result of `compare`.

    Attributes:
        row_cosines: (d_s,), between the rows of the two; NaN where one of them is zero.
        angles: principal angles between the row spaces in radians, the largest first.
    """

    row_cosines: Float32[np.ndarray, " ds"]
    angles: Float64[np.ndarray, " r"]

    def __str__(self) -> str:
        cosine = float(np.nanmean(self.row_cosines)) if len(self.row_cosines) else float("nan")
        median, largest = np.degrees([np.median(self.angles), self.angles[0]])
        return (
            f"mean row cosine {cosine:.4f}; angles between the row spaces: median {median:.2f}, "
            f"largest {largest:.2f} degrees"
        )


def compare(a: Translation, b: Translation) -> Comparison:
    """Cosines between the rows of two maps, and the angles between their row spaces.

    The angles' cosines are the singular values of Q_a' Q_b, with Q an orthonormal basis of the
    rows; small angles come from the sines, which rounding leaves whole.

    Raises:
        InputError: maps of unlike shape, or a map of zeros.

    Source: Bjorck and Golub (1973); Knyazev and Argentati (2002) for small angles.
    """
    if a.matrix.shape != b.matrix.shape:
        raise InputError(
            f"Expected two translations of one shape, got {a.matrix.shape} and {b.matrix.shape}."
        )
    for t in (a, b):
        if not t.matrix.any():
            raise InputError(f"Expected translations that are not zero, {t.method} is.")
    dots = np.einsum("ij,ij->i", a.matrix, b.matrix)
    live = a.matrix.any(axis=1) & b.matrix.any(axis=1)
    cosines = np.where(live, dots / (a.row_norms * b.row_norms), np.nan).astype(np.float32)
    bases = [scipy.linalg.orth(t.matrix.T.astype(np.float64), rcond=_RCOND) for t in (a, b)]
    return Comparison(cosines, scipy.linalg.subspace_angles(*bases))
