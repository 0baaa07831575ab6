"""Random directions to compare features with, in three families."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.verbalize.bridge import Bridge

FAMILIES = ("mapped_gauss", "mapped_cov", "target_iso")


def random_directions(
    bridge: Bridge, family: str, count: int, seed: int = 0
) -> Float64[np.ndarray, "n q"]:
    """Unit directions of the target.

    `mapped_gauss`: M g, g ~ N(0, I) in the source: the same map and the same anisotropy.
    `mapped_cov`: M g, g ~ N(0, C_xx / n). `target_iso`: g ~ N(0, I) in the target.

    Raises:
        InputError: another family.
    """
    rng = np.random.default_rng([seed, len(family)])
    q, p = bridge.matrix.shape
    if family == "target_iso":
        rows = rng.standard_normal((count, q))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if family == "mapped_gauss":
        return bridge.directions(rng.standard_normal((count, p)))
    if family == "mapped_cov":
        spread = np.sqrt(np.maximum(bridge.eigenvalues, 0) / max(bridge.meta["n"], 1))
        inner = rng.standard_normal((count, len(spread))) * spread
        return bridge.directions((inner @ bridge.eigenvectors.T.astype(float)) * bridge.scale_x)
    raise InputError(f"Expected a family among {', '.join(FAMILIES)}, got '{family}'.")
