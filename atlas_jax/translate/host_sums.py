"""Moments accumulated on the host, where NumPy and SciPy multiply faster than XLA does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.linalg
from jaxtyping import Float32, Float64, Shaped

from atlas_jax.errors import InputError
from atlas_jax.translate.host_rows import (
    HEAVY,
    SPARSE_BELOW,
    AtlasRows,
    DenseRows,
    SparseRows,
    column_sums,
    row_norms,
)
from atlas_jax.translate.moments import AtlasMoments, Moments, SiteMoments, Wanted

(_ger,) = scipy.linalg.get_blas_funcs(("ger",), dtype="f8")
LAYOUTS = ("auto", "sparse", "dense")


class HostSums:
    """Sums over batches of rows.

    Products are taken in float32 of rows shifted by the first batch's mean, and added in float64;
    the shift is undone in `moments`. The accumulators are updated in place: there may be room for
    one of each only.

    Args:
        widths: d_s of each site.
        atlas_width: d_c.
        wanted: which sums.
        columns: the block of atlas features whose products are taken; default: all.
        layout: `sparse` multiplies the nonzeros of the atlas rows only, `dense` all entries;
            `auto` decides by the first batch.
        start: moments to go on from; they are updated in place.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        atlas_width: int,
        wanted: Wanted,
        columns: tuple[int, int] | None = None,
        layout: str = "auto",
        start: Moments | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise InputError(f"Expected atlas rows {', '.join(LAYOUTS)}, got '{layout}'.")
        self.wanted, self.layout, self.density = wanted, layout, float("nan")
        self.sums = start or Moments.zeros(widths, atlas_width, wanted, columns)
        self.block = slice(*(columns or (0, atlas_width)))
        self.heavy = np.zeros(atlas_width, bool)
        self.shift = np.zeros(atlas_width, np.float32)
        self.shifts: dict[str, Float32[np.ndarray, " ds"]] = {}
        # Sums of shifted rows and of their squares since the shifts were last put back.
        self.pending, self.rows = np.zeros((2, atlas_width)), 0
        self.pending_sites = {site: np.zeros((2, width)) for site, width in widths.items()}
        self.pool = ThreadPoolExecutor(_cores())

    def local(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of a batch that this process must read: all of them."""
        return start, stop

    def prepare(self, rows: Shaped[np.ndarray, "n dc"]) -> AtlasRows | None:
        """A batch of atlas rows, in the layout of all batches; None where none are summed."""
        if not (self.wanted.raw or self.wanted.units):
            return None
        rows = rows.astype(np.float32, copy=False)
        if np.isnan(self.density):
            self._choose(rows)
        if self.layout == "sparse":
            return SparseRows(rows, self.heavy, self.shift, self.block, self.pool)
        return DenseRows(rows, self.shift, self.block)

    def _choose(self, rows: Float32[np.ndarray, "n dc"]) -> None:
        shares = np.count_nonzero(rows, axis=0) / len(rows)
        self.density = float(shares.mean())
        if self.layout == "auto":
            self.layout = "sparse" if self.density < SPARSE_BELOW else "dense"
        if self.layout == "sparse":
            self.heavy = shares > HEAVY
        moved = self.heavy if self.layout == "sparse" else np.ones(rows.shape[1], bool)
        self.shift[moved] = _means(rows[:, moved])

    def add(
        self,
        subjects: Mapping[str, Shaped[np.ndarray, "n ..."]],
        atlas: AtlasRows | None,
        start: int,
        stop: int,
    ) -> None:
        """Adds the rows from `start` to `stop`; batches come in rising order."""
        weights = None if atlas is None else self._add_atlas(atlas)
        for site, acts in subjects.items():
            self._add_site(site, acts.astype(np.float32, copy=False), atlas, weights, start)
        self.sums.n += stop - start
        self.rows += stop - start

    def _add_atlas(self, atlas: AtlasRows) -> Float32[np.ndarray, " n"] | None:
        """Returns 1 / length of each row, where that is needed."""
        mine = self.sums.atlas
        if self.wanted.raw:
            self.pending += atlas.sums()
        weights = None
        if self.wanted.units:
            weights = inverse(atlas.norms())
            mine.unit_total += atlas.weighted_total(weights)
        if mine.gram is not None:
            atlas.add_gram(mine.gram, self.wanted.gram, None)
        if mine.unit_gram is not None:
            atlas.add_gram(mine.unit_gram, "float32", weights)
        return weights

    def _add_site(
        self,
        site: str,
        rows: Float32[np.ndarray, "n ds"],
        atlas: AtlasRows | None,
        weights: Float32[np.ndarray, " n"] | None,
        first: int,
    ) -> None:
        mine = self.sums.sites[site]
        if mine.top is not None:
            mine.top = mine.top.add(rows, first)
        if atlas is None:
            return
        if self.wanted.raw:
            self._add_raw(site, mine, rows, atlas)
        if mine.unit is not None and weights is not None:
            length = inverse(row_norms(rows))
            mine.unit_total += length @ rows
            atlas.add_cross(mine.unit, rows * (length * weights)[:, None])

    def _add_raw(
        self, site: str, mine: SiteMoments, rows: Float32[np.ndarray, "n ds"], atlas: AtlasRows
    ) -> None:
        if site not in self.shifts:
            self.shifts[site] = _means(rows)
        moved = rows - self.shifts[site]
        self.pending_sites[site] += column_sums(moved)
        if mine.cross is not None:
            atlas.add_cross(mine.cross, moved, shifted=True)

    def moments(self) -> Moments:
        """The sums so far; the arrays are this object's own, and go on being updated.

        A_c' A_s = sum (a_c - c)(a_s - s)' + c (sum a_s - s)' + (sum a_c) s'
        """
        far = self.shift.astype(np.float64)
        for site, shift in self.shifts.items():
            mine, pending = self.sums.sites[site], self.pending_sites[site]
            if mine.cross is not None:
                whole = self.pending[0] + self.rows * far
                _add_outer(mine.cross, whole[self.block], shift.astype(np.float64))
                if far[self.block].any():
                    _add_outer(mine.cross, far[self.block], pending[0])
            _put_back(mine, pending, shift.astype(np.float64), self.rows)
        _put_back(self.sums.atlas, self.pending, far, self.rows)
        self.rows = 0
        return self.sums


def _put_back(
    side: SiteMoments | AtlasMoments,
    pending: Float64[np.ndarray, "2 d"],
    shift: Float64[np.ndarray, " d"],
    n: int,
) -> None:
    """Adds what n shifted rows gave, of the rows as they were, once: each time rounds."""
    total, squares = pending
    side.total += total + n * shift
    side.squares += squares + shift * (2 * total + n * shift)
    pending[:] = 0


def _means(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " d"]:
    """The mean of each column; summed in float32, large ones would all be rounded one way."""
    return rows.mean(axis=0, dtype=np.float64).astype(np.float32)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _add_outer(total: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """total += x y', without a matrix beside it."""
    _ger(1.0, y, x, a=total.T, overwrite_a=1)


def inverse(norms: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """1 / norm, and 0 for a zero row."""
    live = norms > 0
    return np.where(live, 1.0 / np.where(live, norms, 1.0), 0.0).astype(np.float32)
