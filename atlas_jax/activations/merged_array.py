"""Several recorded arrays side by side, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from atlas_jax.activations.site_array import SiteArray
from atlas_jax.activations.top_samples import TopSamples
from atlas_jax.errors import InputError


class MergedArray:
    """The columns of several arrays over the same rows, (N, d_1 + d_2 + ...), in one order.

    Attributes:
        parts: the arrays.
        site: their sites, joined by " + ".
        shape: (N, d).
        meta: what was recorded.
    """

    def __init__(self, parts: Sequence[SiteArray]) -> None:
        if not parts or len({(part.shape[0], part.meta["texts"]) for part in parts}) != 1:
            raise InputError("Expected arrays over the same texts to merge, got others, or none.")
        self.parts = tuple(parts)
        self.site = " + ".join(part.site for part in parts)
        self._starts = np.cumsum([0, *(part.shape[1] for part in parts)])
        self.shape: tuple[int, int] = (parts[0].shape[0], int(self._starts[-1]))
        pools = " + ".join(dict.fromkeys(str(part.meta["pool"]) for part in parts))
        self.meta: dict[str, Any] = {**parts[0].meta, "pool": pools}

    def __repr__(self) -> str:
        n, width = self.shape
        return f"MergedArray({n:,} x {width:,}: {self.site})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Shaped[np.ndarray, "..."]:
        """Rows, or rows and columns, as of one array."""
        rows, columns = key if isinstance(key, tuple) else (key, None)
        values = np.concatenate([part[rows] for part in self.parts], axis=-1)
        return values if columns is None else values[..., columns]

    def where(self, column: int) -> tuple[SiteArray, int]:
        """The array that a column comes from, and its number there."""
        if not 0 <= column < self.shape[1]:
            raise InputError(f"Expected a column from 0 to {self.shape[1] - 1}, got {column}.")
        part = int(np.searchsorted(self._starts, column, side="right")) - 1
        return self.parts[part], int(column - self._starts[part])

    def rows(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m d"]:
        """Some rows, in the order asked for."""
        return np.concatenate([part.rows(indices) for part in self.parts], axis=1)

    def columns(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "N m"]:
        """Some features of all rows; only the arrays that have them are read."""
        found = [self.where(int(column)) for column in indices]
        of = {
            id(part): part.columns([c for other, c in found if other is part])
            for part in {id(p): p for p, _ in found}.values()
        }
        taken = dict.fromkeys(of, 0)
        out = []
        for part, _ in found:
            out.append(of[id(part)][:, taken[id(part)]])
            taken[id(part)] += 1
        return np.stack(out, axis=1)

    def batches(self, size: int, prefetch: int = 2) -> Iterator[Shaped[np.ndarray, "b d"]]:
        """All rows in order, `size` at a time; `prefetch` reads of each array are ahead."""
        streams = [part.batches(size, prefetch) for part in self.parts]
        for batch in zip(*streams, strict=True):
            yield np.concatenate(batch, axis=1)

    def top_samples(self, k: int = 10) -> TopSamples:
        """The k samples that activate each feature most."""
        tops = [part.top_samples(k) for part in self.parts]
        return TopSamples(
            np.concatenate([top.values for top in tops], axis=1),
            np.concatenate([top.rows for top in tops], axis=1),
        )
