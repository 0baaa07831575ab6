"""A query: a concept in the coordinates of an atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from atlas_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Query:
    """A concept q in atlas coordinates (eq. 2).

    Attributes:
        vector: q, (d_c,), float32.
        name: what the user asked for, in words.
        features: the atlas features that it is made of, most important first.
        weights: of those features, in their order.

    Raises:
        InputError: a vector that is zero or not finite, which no direction can be read from.
    """

    vector: Float[Array, " d_c"] | Float[np.ndarray, " d_c"]
    name: str
    features: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.vector)
        if not np.isfinite(values).all():
            raise InputError(f"Expected a finite query vector for '{self.name}', got NaN or inf.")
        if not values.any():
            raise InputError(
                f"The query '{self.name}' is zero in every feature, so it has no direction: use "
                "other features, weights or texts."
            )
        if len(self.features) != len(self.weights):
            raise InputError(
                f"Expected one weight for each of {len(self.features)} features, got "
                f"{len(self.weights)}."
            )
