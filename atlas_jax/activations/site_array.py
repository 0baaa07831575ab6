"""One recorded array on disk, read like an array."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Int, Shaped

from atlas_jax.activations.export import export_rows
from atlas_jax.activations.kvstore import check_reached, first_line, open_kvstore
from atlas_jax.activations.layout import grid_of, ledger_key, top_key
from atlas_jax.activations.top_samples import TopSamples, find_top_samples, load_top_samples
from atlas_jax.errors import InputError
from atlas_jax.progress import track

_KEPT = 32
_ROWS = 4096


class Read:
    """A read under way, into an array of NumPy's: the system backs that with large pages."""

    def __init__(self, part: ts.TensorStore) -> None:
        self._values = np.empty(part.shape, part.dtype.numpy_dtype)
        self._future = ts.array(self._values).write(part)

    def result(self) -> np.ndarray:
        """The values."""
        self._future.result()
        return self._values


class SiteArray:
    """The activations of one site under one pooling, (N, d), read from disk as they are asked for.

    Attributes:
        site: its name.
        shape: (N, d).
        dtype: of the values.
        meta: what was recorded: model, fingerprint, texts (the hash of the corpus), pool.
    """

    def __init__(
        self, array: ts.TensorStore, site: str, meta: dict[str, Any], url: str | os.PathLike[str]
    ) -> None:
        self.array, self.site, self.meta, self._url = array, site, meta, url
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        _, self._chunk = grid_of(array)

    def __repr__(self) -> str:
        n, width = self.shape
        size = n * width * self.dtype.itemsize
        return (
            f"SiteArray({self.site!r}, {self.meta['pool']}, {n:,} x {width:,} {self.dtype}, "
            f"{size_text(size)})"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    def __getitem__(self, key: Any) -> Shaped[np.ndarray, "..."]:
        """Rows, or rows and columns: integers, slices, arrays of indices, masks."""
        rows, columns = key if isinstance(key, tuple) else (key, None)
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            values = self._read(start, max(start, stop))
        elif isinstance(rows, slice):
            values = self.rows(np.arange(len(self))[rows])
        elif isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)}")
            start = int(rows) % len(self)
            values = self._read(start, start + 1)[0]
        else:
            rows = np.asarray(rows)
            values = self.rows(np.flatnonzero(rows) if rows.dtype == bool else rows)
        return values if columns is None else values[..., columns]

    def rows(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m d"]:
        """Some rows, in the order asked for.

        Raises:
            InputError: a row that is not there.
        """
        asked = np.asarray(indices, np.int64)
        wrong = asked[(asked < -len(self)) | (asked >= len(self))]
        if len(wrong):
            raise InputError(
                f"Expected rows from 0 to {len(self) - 1} of {self.site}, got {wrong[0]}."
            )
        wanted, back = np.unique(asked % len(self), return_inverse=True)
        if not len(wanted):
            return np.empty((0, self.shape[1]), self.dtype)
        read = Read(self.array[wanted])
        return self.checked(read, int(wanted[0]), int(wanted[-1]) + 1)[back]

    def columns(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "N m"]:
        """Some features of all rows."""
        wanted = np.asarray(indices, np.int64)
        batches = self._tracked("columns")
        return np.concatenate([batch[:, wanted] for batch in batches])

    def batches(self, size: int, prefetch: int = 2) -> Iterator[Shaped[np.ndarray, "b d"]]:
        """All rows in order, `size` at a time; `prefetch` reads are under way ahead."""
        step = -(-size // self._chunk) * self._chunk  # no chunk is read twice
        return cut_again(self._blocks(step, prefetch), size)

    def _tracked(self, what: str) -> Iterator[np.ndarray]:
        """All rows, with a progress bar."""
        return track(self.batches(_ROWS), f"{what} of {self.site}", -(-len(self) // _ROWS))

    def _blocks(self, step: int, prefetch: int) -> Iterator[np.ndarray]:
        waiting: deque[tuple[Read, int, int]] = deque()
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            waiting.append((Read(self.array[start:stop]), start, stop))
            if len(waiting) > prefetch:
                yield self.checked(*waiting.popleft())
        while waiting:
            yield self.checked(*waiting.popleft())

    def top_samples(self, k: int = 10) -> TopSamples:
        """The k samples that activate each feature most, and how much.

        The first call reads all rows once and saves the result beside the store, where it can be
        written to; later ones read that.
        """
        k = min(k, len(self))
        kv, key = open_kvstore(self._url), top_key(self.site, self.meta["pool"])
        top = load_top_samples(kv, key, k)
        if top is None:
            batches = self._tracked("top samples")
            top = find_top_samples(batches, self.shape[1], min(max(k, _KEPT), len(self)))
            with suppress(OSError, ValueError):  # a place that cannot be written to
                kv.write(key, top.to_bytes()).result()
        return top.first(k)

    def export(
        self, path: str | os.PathLike[str], rows: Sequence[int] | np.ndarray | None = None
    ) -> Path:
        """Writes rows to a .npy, .safetensors or .parquet file.

        Args:
            path: of the file, whose ending says what kind.
            rows: which; default: all.

        Raises:
            InputError: another ending, or a row that is not there.
        """
        if rows is None:
            return export_rows(path, self._tracked("rows"), self.shape, self.dtype, self.meta)
        wanted = np.asarray(rows, np.int64)
        parts = (self.rows(wanted[i : i + _ROWS]) for i in range(0, len(wanted), _ROWS))
        shape = (len(wanted), self.shape[1])
        return export_rows(path, parts, shape, self.dtype, self.meta, wanted)

    def _read(self, start: int, stop: int) -> np.ndarray:
        return self.checked(Read(self.array[start:stop]), start, stop)

    def checked(self, read: Read, start: int, stop: int) -> np.ndarray:
        """What a read of rows between `start` and `stop` gives.

        Raises:
            InputError: damaged or missing rows, naming them.
        """
        try:
            values = read.result()
            if not np.isnan(values[:, :1]).any():
                return values
        except (ValueError, OSError) as error:
            check_reached(f"read {self.site} in {self._url}", error)
        raise InputError(self._find_damage(start, stop))

    def _find_damage(self, start: int, stop: int) -> str:
        """Names the first part with rows that cannot be read."""
        size = self.meta["rows_per_part"]
        for part in range(start // size, -(-stop // size)):
            a, b = part * size, min((part + 1) * size, len(self))
            why = "they are missing"
            try:
                if not np.isnan(Read(self.array[a:b]).result()[:, :1]).any():
                    continue
            except (ValueError, OSError) as error:
                check_reached(f"read {self.site} in {self._url}", error)
                why = f"damaged: {first_line(error)}"
            return (
                f"Rows {a} to {b - 1} of {self.site} in {self._url} cannot be read ({why}). Delete "
                f"{ledger_key(part)} there and run the same capture again: it records them anew."
            )
        return f"{self.site} in {self._url} could not be read. Try again."


def size_text(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def cut_again(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows, `size` at a time."""
    rest: np.ndarray | None = None
    for block in blocks:
        block = block if rest is None else np.concatenate([rest, block])
        whole = len(block) - len(block) % size
        for start in range(0, whole, size):
            yield block[start : start + size]
        rest = block[whole:] if whole < len(block) else None
    if rest is not None:
        yield rest
