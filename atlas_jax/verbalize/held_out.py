"""How well a bridge predicts pairs of documents that it was not fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from atlas_jax.verbalize.bridge import Bridge

TOP = 10


def held_out_quality(
    bridge: Bridge, source: Float[np.ndarray, "m p"], target: Float[np.ndarray, "m q"]
) -> dict[str, float]:
    """Shares of variance explained on m pairs, and the mean cosine of rows.

    FVE = 1 - sum ||y - F(x)||^2 / sum ||y - yb||^2, yb the mean of the fitted pairs: of `raw` rows;
    with each dimension divided by its standard deviation (`per_dimension`); of rows and predictions
    divided by their length (`unit`, yb then the mean unit row of the m pairs). `without_top` leaves
    out the ten target dimensions of largest variance, which may hold nearly all of it. `cosine` is
    the mean of cos(y, F(x)), `centred_cosine` that of cos(y - yb, F(x) - yb).
    """
    y = target.astype(np.float64)
    made = bridge.points(source)
    rest = np.sort(np.argsort(-bridge.scale_y, kind="stable")[TOP:])
    found = {
        "held_out_pairs": float(len(y)),
        "raw": _fve(y, made, bridge.mean_y),
        "per_dimension": _fve(
            y / bridge.scale_y, made / bridge.scale_y, bridge.mean_y / bridge.scale_y
        ),
        "unit": _unit_fve(y, made),
        "cosine": _cosine(y, made),
        "centred_cosine": _cosine(y - bridge.mean_y, made - bridge.mean_y),
    }
    if len(rest):
        found |= {
            "raw_without_top": _fve(y[:, rest], made[:, rest], bridge.mean_y[rest]),
            "unit_without_top": _unit_fve(y[:, rest], made[:, rest]),
            "cosine_without_top": _cosine(y[:, rest], made[:, rest]),
        }
    return found


def _fve(y: np.ndarray, made: np.ndarray, mean: np.ndarray) -> float:
    return 1 - float(((y - made) ** 2).sum() / max(((y - mean) ** 2).sum(), 1e-300))


def _unit_fve(y: np.ndarray, made: np.ndarray) -> float:
    y, made = _unit(y), _unit(made)
    return _fve(y, made, y.mean(axis=0))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((_unit(a) * _unit(b)).sum(axis=1).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
