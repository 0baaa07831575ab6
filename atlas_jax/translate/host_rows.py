"""A batch of atlas rows on the host, dense or compressed, and its products."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Bool, Float32, Float64

Columns = slice
"""The block of atlas features whose products are taken."""

(_syrk,) = scipy.linalg.get_blas_funcs(("syrk",), dtype="f8")
_WIDTH = 256
"""Subject features of one sparse product: its operands then stay in the second-level cache."""
_PRODUCT = 4096
"""Atlas features of one dense product."""
_GRAM_CHUNKS = 8
HEAVY = 0.3
"""Share of nonzeros from which a column is multiplied dense: 3 times as fast per entry."""
SPARSE_BELOW = 0.15
"""Share of nonzeros below which the compressed path wins (measured: see docs/methods.md)."""


class AtlasRows(Protocol):
    """Some atlas rows, as the accumulator needs them."""

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each column its sum and the sum of its squares, in float64."""
        ...

    def norms(self) -> Float32[np.ndarray, " n"]:
        """Euclidean length of each row."""
        ...

    def weighted_total(self, weights: np.ndarray) -> np.ndarray:
        """Sum of the rows, each times its weight."""
        ...

    def add_cross(self, total: np.ndarray, subject: np.ndarray, shifted: bool = False) -> None:
        """total += A_c[:, block]' A_s; if `shifted`, of rows less the shift."""
        ...

    def add_gram(self, total: np.ndarray, precision: str, weights: np.ndarray | None) -> None:
        """Adds the upper triangle of A_c[:, block]' A_c, of rows times their weights."""
        ...


class DenseRows:
    """Rows as they are.

    Args:
        rows: (n, d_c), float32.
        shift: taken out for sums and cross products, so that a large mean costs no precision.
        block: the atlas features whose products are taken.
    """

    def __init__(
        self, rows: Float32[np.ndarray, "n dc"], shift: Float32[np.ndarray, " dc"], block: Columns
    ) -> None:
        self.rows, self.shift, self.block = np.ascontiguousarray(rows), shift, block
        self.moved = self.rows - shift

    def sums(self) -> tuple[Float64[np.ndarray, " dc"], Float64[np.ndarray, " dc"]]:
        total, squares = column_sums(self.moved)
        n, shift = len(self.rows), self.shift.astype(np.float64)
        return total + n * shift, squares + shift * (2 * total + n * shift)

    def norms(self) -> Float32[np.ndarray, " n"]:
        return row_norms(self.rows)

    def weighted_total(self, weights: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " dc"]:
        return (weights @ self.rows).astype(np.float64)

    def add_cross(
        self,
        total: Float64[np.ndarray, "c ds"],
        subject: Float32[np.ndarray, "n ds"],
        shifted: bool = False,
    ) -> None:
        left = (self.moved if shifted else self.rows)[:, self.block]
        for first in range(0, len(total), _PRODUCT):  # a bound on what a product needs beside it
            total[first : first + _PRODUCT] += left[:, first : first + _PRODUCT].T @ subject

    def add_gram(
        self, total: Float64[np.ndarray, "c dc"], precision: str, weights: np.ndarray | None = None
    ) -> None:
        rows = self.rows if weights is None else self.rows * weights[:, None]
        rows = rows.astype(precision, copy=False)
        if len(total) == rows.shape[1] and precision == "float64":
            # Its transpose is in Fortran's order, and there this triangle is the lower one.
            _syrk(1.0, rows.T, 1.0, total.T, lower=1, overwrite_c=1)
        else:
            total += rows[:, self.block].T @ rows


class SparseRows:
    """Rows of which most entries are zero: frequent columns dense, the others compressed.

    Args:
        rows: (n, d_c), float32.
        heavy: the columns to keep dense.
        block: the atlas features whose products are taken.
        pool: where the parts of a product run side by side (SciPy's use one thread each).
    """

    def __init__(
        self,
        rows: Float32[np.ndarray, "n dc"],
        heavy: Bool[np.ndarray, " dc"],
        block: Columns,
        pool: Executor,
    ) -> None:
        self.block, self.pool, self.width = block, pool, rows.shape[1]
        self.heavy = np.flatnonzero(heavy)
        self.dense = np.ascontiguousarray(rows[:, self.heavy])
        self.light = compress(rows, ~heavy)
        self.by_column: Any = self.light.T.tocsr()

    def sums(self) -> tuple[Float64[np.ndarray, " dc"], Float64[np.ndarray, " dc"]]:
        columns, values = self.light.indices, self.light.data.astype(np.float64)
        total = np.bincount(columns, values, self.width).astype(np.float64)  # of nothing: integers
        squares = np.bincount(columns, values * values, self.width).astype(np.float64)
        total[self.heavy], squares[self.heavy] = column_sums(self.dense)
        return total, squares

    def norms(self) -> Float32[np.ndarray, " n"]:
        light = self.light
        squares = scipy.sparse.csr_array((light.data**2, light.indices, light.indptr), light.shape)
        ones = np.ones(self.width, np.float32)
        return np.sqrt(squares @ ones + np.einsum("ij,ij->i", self.dense, self.dense))

    def weighted_total(self, weights: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " dc"]:
        total = (self.by_column @ weights).astype(np.float64)
        total[self.heavy] = weights @ self.dense
        return total

    def add_cross(
        self,
        total: Float64[np.ndarray, "c ds"],
        subject: Float32[np.ndarray, "n ds"],
        shifted: bool = False,  # a sparse row has no shift: it would be dense
    ) -> None:
        light = self.by_column[self.block]
        start, stop = np.searchsorted(self.heavy, (self.block.start, self.block.stop))
        heavy = self.heavy[start:stop] - self.block.start
        frequent = self.dense[:, start:stop].T @ subject

        def part(first: int) -> None:
            columns = slice(first, first + _WIDTH)
            product = light @ np.ascontiguousarray(subject[:, columns])
            product[heavy] = frequent[:, columns]
            total[:, columns] += product

        self._each(part, range(0, subject.shape[1], _WIDTH))

    def add_gram(
        self, total: Float64[np.ndarray, "c dc"], precision: str, weights: np.ndarray | None = None
    ) -> None:
        light, dense = self.light, self.dense
        if weights is not None:
            scale = np.repeat(weights, np.diff(light.indptr))
            light = scipy.sparse.csr_array(
                (light.data * scale, light.indices, light.indptr), light.shape
            )
            dense = dense * weights[:, None]
        light, dense = light.astype(precision), dense.astype(precision)
        columns: Any = light
        by_column: Any = light.T.tocsr()
        offset, stop = self.block.start, self.block.stop
        step = max(1, -(-(stop - offset) // _GRAM_CHUNKS))

        def part(first: int) -> None:
            # Left of the diagonal the result is the mirror image of what other parts compute.
            last = min(first + step, stop)
            product = by_column[first:last] @ columns[:, first:]
            total[first - offset : last - offset, first:] += product.toarray()

        self._each(part, range(offset, stop, step))
        with_heavy = by_column @ dense
        with_heavy[self.heavy] = dense.T @ dense
        total[:, self.heavy] += with_heavy[self.block]
        with_heavy[self.heavy] = 0
        mine = (self.heavy >= offset) & (self.heavy < stop)
        total[self.heavy[mine] - offset] += with_heavy.T[mine]

    def _each(self, task: Callable[[int], None], starts: Iterable[int]) -> None:
        for done in self.pool.map(task, starts):
            assert done is None


def compress(
    rows: Float32[np.ndarray, "n dc"], kept: Bool[np.ndarray, " dc"]
) -> scipy.sparse.csr_array:
    """The nonzeros of the kept columns, by row."""
    n, width = rows.shape
    present = rows != 0
    present &= kept
    places = np.flatnonzero(present)
    starts = np.concatenate([[0], np.cumsum(np.count_nonzero(present, axis=1))])
    columns = places.astype(np.int32) if rows.size < 2**31 else places
    columns -= np.repeat(np.arange(n, dtype=columns.dtype) * width, np.diff(starts))
    parts = (rows.ravel()[places], columns.astype(np.int32), starts.astype(np.int32))
    return scipy.sparse.csr_array(parts, shape=rows.shape)


def column_sums(
    rows: Float32[np.ndarray, "n d"],
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Of each column its sum and the sum of its squares: float32 in the batch, float64 beyond."""
    total = np.ones(len(rows), np.float32) @ rows
    return total.astype(np.float64), np.einsum("ij,ij->j", rows, rows).astype(np.float64)


def row_norms(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " n"]:
    """Euclidean length of each row."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))
