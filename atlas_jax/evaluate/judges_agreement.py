"""How far two judges agree beyond chance: Cohen's kappa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.errors import InputError

WEIGHTS = ("", "linear", "quadratic")
_RATINGS = 3


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the texts that both rated.

    Attributes:
        judges: their names.
        table: (3, 3): how often the first said i and the second j.
        unrated: texts that one of them did not rate.
    """

    judges: tuple[str, str]
    table: Int[np.ndarray, "3 3"]
    unrated: int

    def kappa(self, weights: str = "") -> float:
        """See `cohen_kappa`."""
        return cohen_kappa(self.table, weights)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; a kappa that does not exist becomes None."""
        n = int(self.table.sum())
        kappas = {f"{name or 'plain'}_kappa": self.kappa(name) for name in WEIGHTS}
        return {
            "judges": list(self.judges),
            "n": n,
            "unrated": self.unrated,
            "same": float(np.trace(self.table) / n) if n else None,
            **{name: None if np.isnan(k) else k for name, k in kappas.items()},
            "table": self.table.tolist(),
        }


def agreement(
    first: Sequence[int | None],
    second: Sequence[int | None],
    judges: tuple[str, str] = ("first", "second"),
) -> Agreement:
    """Counts the pairs of ratings 0, 1, 2; None and negative ones are no ratings.

    Raises:
        InputError: lists of unlike length.
    """
    if len(first) != len(second):
        raise InputError(
            f"Expected two ratings of each text, got {len(first)} and {len(second)} ratings."
        )
    table = np.zeros((_RATINGS, _RATINGS), np.int64)
    unrated = 0
    for a, b in zip(first, second, strict=True):
        if a is None or b is None or a < 0 or b < 0:
            unrated += 1
        else:
            table[a, b] += 1
    return Agreement(judges, table, unrated)


def cohen_kappa(
    table: Int[np.ndarray, "r r"] | Float[np.ndarray, "r r"], weights: str = ""
) -> float:
    """1 - sum w_ij n_ij / sum w_ij e_ij, with e_ij = n_i. n_.j / n   (Cohen 1960, 1968)

    Args:
        table: n_ij.
        weights: of a disagreement: "" counts each alike, `linear` |i - j|, `quadratic` (i - j)^2.

    Returns:
        1 for full agreement, 0 for chance; NaN where both always said the same one thing.

    Raises:
        InputError: unknown weights.
    """
    if weights not in WEIGHTS:
        raise InputError(f"Expected weights '', 'linear' or 'quadratic', got '{weights}'.")
    counts = np.asarray(table, np.float64)
    gap = np.abs(np.subtract.outer(np.arange(len(counts)), np.arange(len(counts)))).astype(float)
    weight = {"": (gap > 0).astype(float), "linear": gap, "quadratic": gap**2}[weights]
    total = counts.sum()
    expected = np.outer(counts.sum(1), counts.sum(0)) / (total if total else 1.0)
    chance = float((weight * expected).sum())
    return 1 - float((weight * counts).sum()) / chance if chance else float("nan")
