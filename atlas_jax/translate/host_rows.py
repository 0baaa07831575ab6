"""A batch of atlas rows on the host, dense or compressed, and its products."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Bool, Float32, Float64

Columns = slice
"""The block of atlas features whose products are taken."""

(_syrk,) = scipy.linalg.get_blas_funcs(("syrk",), dtype="f8")
_ROWS, _WIDTH = 1024, 128
"""Rows and subject features of one sparse product: they stay in the second-level cache."""
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
        """Of each column less the shift its sum and the sum of its squares, in float64."""
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

    @cached_property
    def moved(self) -> Float32[np.ndarray, "n dc"]:
        """The rows less the shift."""
        return self.rows - self.shift

    def sums(self) -> tuple[Float64[np.ndarray, " dc"], Float64[np.ndarray, " dc"]]:
        return column_sums(self.moved)

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
        shift: taken out of those for sums and cross products: one that is always on may have a
            mean beside which float32 loses what varies.
        block: the atlas features whose products are taken.
        pool: where the parts of a product run side by side (SciPy's use one thread each).
    """

    def __init__(
        self,
        rows: Float32[np.ndarray, "n dc"],
        heavy: Bool[np.ndarray, " dc"],
        shift: Float32[np.ndarray, " dc"],
        block: Columns,
        pool: Executor,
    ) -> None:
        self.block, self.pool, self.width = block, pool, rows.shape[1]
        self.heavy = np.flatnonzero(heavy)
        self.dense, self.shift = np.ascontiguousarray(rows[:, self.heavy]), shift[self.heavy]
        self.spans = [slice(i, i + _ROWS) for i in range(0, len(rows), _ROWS)]
        self.light = [compress(rows[span], ~heavy) for span in self.spans]
        self.by_column = [part.T.tocsr() for part in self.light]

    @cached_property
    def moved(self) -> Float32[np.ndarray, "n h"]:
        """The dense columns less the shift."""
        return self.dense - self.shift

    def sums(self) -> tuple[Float64[np.ndarray, " dc"], Float64[np.ndarray, " dc"]]:
        total, squares = np.zeros(self.width), np.zeros(self.width)
        for part in self.light:
            values = part.data.astype(np.float64)
            total += np.bincount(part.indices, values, self.width)
            squares += np.bincount(part.indices, values * values, self.width)
        total[self.heavy], squares[self.heavy] = column_sums(self.moved)
        return total, squares

    def norms(self) -> Float32[np.ndarray, " n"]:
        ones = np.ones(self.width, np.float32)
        squares = [
            scipy.sparse.csr_array((part.data**2, part.indices, part.indptr), part.shape) @ ones
            for part in self.light
        ]
        return np.sqrt(np.concatenate(squares) + np.einsum("ij,ij->i", self.dense, self.dense))

    def weighted_total(self, weights: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " dc"]:
        total = np.zeros(self.width)
        for part, span in zip(self.by_column, self.spans, strict=True):
            total += part @ weights[span]
        total[self.heavy] = weights @ self.dense
        return total

    def add_cross(
        self,
        total: Float64[np.ndarray, "c ds"],
        subject: Float32[np.ndarray, "n ds"],
        shifted: bool = False,  # the dense columns alone: the others would be dense with a shift
    ) -> None:
        whole = self.block == slice(0, self.width)
        light: list[Any] = [part if whole else part[self.block] for part in self.by_column]
        start, stop = np.searchsorted(self.heavy, (self.block.start, self.block.stop))
        heavy = self.heavy[start:stop] - self.block.start
        frequent = (self.moved if shifted else self.dense)[:, start:stop].T @ subject

        def add(first: int) -> None:
            columns = slice(first, first + _WIDTH)
            product = None
            for part, span in zip(light, self.spans, strict=True):
                more = part @ np.ascontiguousarray(subject[span, columns])
                product = more if product is None else np.add(product, more, out=product)
            assert product is not None
            product[heavy] = frequent[:, columns]
            total[:, columns] += product

        self._each(add, range(0, subject.shape[1], _WIDTH))

    def add_gram(
        self, total: Float64[np.ndarray, "c dc"], precision: str, weights: np.ndarray | None = None
    ) -> None:
        light: Any = scipy.sparse.vstack(self.light, format="csr")
        dense = self.dense
        if weights is not None:
            light.data *= np.repeat(weights, np.diff(light.indptr))
            dense = dense * weights[:, None]
        light, dense = light.astype(precision), dense.astype(precision)
        columns: Any = light
        by_column: Any = light.T.tocsr()
        offset, stop = self.block.start, self.block.stop
        step = max(1, -(-(stop - offset) // _GRAM_CHUNKS))

        def add(first: int) -> None:
            # Left of the diagonal the result is the mirror image of what other parts compute.
            last = min(first + step, stop)
            product = by_column[first:last] @ columns[:, first:]
            total[first - offset : last - offset, first:] += product.toarray()

        self._each(add, range(offset, stop, step))
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
    starts = np.searchsorted(places, np.arange(n + 1) * width).astype(np.int32)
    columns = np.remainder(places, width).astype(np.int32)
    return scipy.sparse.csr_array((rows.ravel()[places], columns, starts), shape=rows.shape)


def column_sums(
    rows: Float32[np.ndarray, "n d"],
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Of each column its sum and the sum of its squares: float32 in the batch, float64 beyond."""
    total = np.ones(len(rows), np.float32) @ rows
    return total.astype(np.float64), np.einsum("ij,ij->j", rows, rows).astype(np.float64)


def row_norms(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " n"]:
    """Euclidean length of each row."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))
