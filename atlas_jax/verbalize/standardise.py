"""Ridge in standardised coordinates, from moments alone: the fitted side and the held-out side.

    z = D_x^-1 (x - xb),  t = D_y^-1 (y - yb),  K = sum z z',  H = sum z t'

Both come from the moments of the fitted pairs; held-out pairs are measured in the same coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.linear import Gram
from atlas_jax.translate.ridge_path import Fold
from atlas_jax.verbalize.bridge_moments import Sums

SCALINGS = ("x_std", "none")
_FLOOR = 1e-6


@dataclass
class Standardised:
    """The fitted pairs.

    Attributes:
        n: pairs.
        mean_x: of rows less the pilot, (p,).
        mean_y: the same of the target, (q,).
        scale_x: D_x, (p,).
        scale_y: D_y, (q,).
        gram: K.
        cross: H, (p, q).
    """

    n: int
    mean_x: Float64[np.ndarray, " p"]
    mean_y: Float64[np.ndarray, " q"]
    scale_x: Float64[np.ndarray, " p"]
    scale_y: Float64[np.ndarray, " q"]
    gram: Gram
    cross: Float64[np.ndarray, "p q"]

    @classmethod
    def of(cls, sums: Sums, scaling: str) -> Standardised:
        """Centres and scales; `scaling` none divides all of x by one number.

        Raises:
            InputError: fewer than two pairs, or an unknown scaling.
        """
        if scaling not in SCALINGS:
            raise InputError(f"Expected scaling among {', '.join(SCALINGS)}, got '{scaling}'.")
        if sums.n < 2:
            raise InputError(
                f"Expected at least two pairs in each share of the documents, got {sums.n}: pair "
                "more texts, or ask for fewer folds."
            )
        mean_x, mean_y = sums.total_x / sums.n, sums.total_y / sums.n
        variance_x = np.maximum(np.diag(sums.xx) / sums.n - mean_x**2, 0)
        variance_y = np.maximum(sums.yy / sums.n - mean_y**2, 0)
        scale_x, scale_y = floored(variance_x), floored(variance_y)
        if scaling == "none":
            scale_x = np.full_like(scale_x, np.sqrt(variance_x.mean()) or 1.0)
        gram = sums.xx - np.outer(sums.total_x, mean_x)
        gram /= scale_x[:, None]
        gram /= scale_x
        cross = sums.xy - np.outer(sums.total_x, mean_y)
        cross /= scale_x[:, None]
        cross /= scale_y
        return cls(sums.n, mean_x, mean_y, scale_x, scale_y, Gram(gram), cross)

    def held_out(self, sums: Sums) -> Fold:
        """Other pairs in these coordinates."""
        moved = sums.moved(-self.mean_x, -self.mean_y)
        moved.xx /= self.scale_x[:, None]
        moved.xx /= self.scale_x
        moved.xy /= self.scale_x[:, None]
        moved.xy /= self.scale_y
        return Fold(moved.n, moved.xx, moved.xy, moved.yy / self.scale_y**2)

    def solve(self, penalty: float) -> Float64[np.ndarray, "q p"]:
        """M = D_y ((K + penalty I)^-1 H)' D_x^-1, by the eigenvectors that serve every penalty."""
        values, vectors = self.gram.spectrum
        q = vectors[:, self.gram.kept]
        right = (q.T @ self.cross[self.gram.live]) * self.scale_y
        solved = right.T / (values[self.gram.kept] + penalty) @ q.T
        matrix = np.zeros((len(self.scale_y), len(self.scale_x)))
        matrix[:, self.gram.live] = solved / self.scale_x[self.gram.live]
        return matrix


def floored(variance: Float64[np.ndarray, " d"]) -> Float64[np.ndarray, " d"]:
    """Standard deviations, none below 1e-6 of their median: a dead dimension is left small."""
    deviation = np.sqrt(variance)
    live = deviation[deviation > 0]
    least = _FLOOR * float(np.median(live)) if len(live) else 1.0
    return np.maximum(deviation, least)
