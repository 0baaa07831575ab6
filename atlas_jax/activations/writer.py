"""Writing a store, one part at a time; what was finished before is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from atlas_jax.activations.kvstore import CONTEXT, is_away, open_kvstore, reason, write_json
from atlas_jax.activations.layout import FORMAT, array_spec, finished_parts, grid_of, ledger_key
from atlas_jax.activations.lock import WriterLock
from atlas_jax.activations.meta import check_meta, create_meta, read_meta
from atlas_jax.errors import InputError

_SPARSE = 0.5
_BLOCK = 2**20


class StoreWriter:
    """The one writer of a store, or of one process's parts of it; used as a context manager.

    Parts are written by a thread of their own, one at a time: `write` returns at once unless the
    part before is still on its way to the disk.

    Args:
        url: folder or kvstore URL.
        meta: what is being recorded; a store that holds something else is refused. Of a store that
            an earlier run began, `rows_per_part` is kept, whatever it is here.
        process: number of this process among those that write the store together.

    Attributes:
        meta: as the store has it.
        done: parts that the ledger names.
        waited: seconds that `write` waited for the part before.
        busy: seconds in which something was being written.
        bytes: written so far, before compression.

    Raises:
        InputError: the store holds another recording, another process writes to it, or the place
            cannot be written to.
    """

    def __init__(self, url: str | os.PathLike[str], meta: dict[str, Any], process: int = 0) -> None:
        self.url, self.meta = url, {"format": FORMAT, **meta}
        self.done: set[int] = set()
        self.waited = self.busy = 0.0
        self.bytes = 0
        self._lock = WriterLock(url, process)
        self._arrays: dict[str, ts.TensorStore] = {}
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        self._lock.take()
        try:
            with self._failing():
                self._kv = open_kvstore(self.url)
                self._agree()
                self.done = finished_parts(self._kv)
        except BaseException:
            self._lock.release()
            raise
        self._thread = ThreadPoolExecutor(1, "atlas-jax-store")
        return self

    def _agree(self) -> None:
        if not create_meta(self._kv, self.meta):
            found = read_meta(self._kv, self.url)
            assert found is not None
            check_meta(found, {**self.meta, "rows_per_part": found["rows_per_part"]}, self.url)
            self.meta = found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with suppress(InputError) if kind else nullcontext():
                self._settle()  # of an interrupted run, the part under way is worth keeping
        finally:
            self._thread.shutdown()
            self._lock.release()

    def write(self, part: int, start: int, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Starts writing a part, and waits for the one before it.

        Args:
            part: its number.
            start: its first row.
            arrays: all of its arrays, by name; they must not change any more.

        Raises:
            InputError: a full disk, or another failure of the part before.
        """
        begun = time.perf_counter()
        self._settle()
        self.waited += time.perf_counter() - begun
        self._pending = self._thread.submit(self._write, part, start, dict(arrays))

    def check(self) -> None:
        """Raises the failure of the part under way, if it has failed."""
        if self._pending is not None and self._pending.done():
            self._settle()

    def finish(self) -> None:
        """Waits until everything is on the disk."""
        self._settle()

    def write_once(self, name: str, values: Shaped[np.ndarray, "..."]) -> None:
        """Writes a whole array, unless an earlier run did."""
        key = f"ledger/{name}"
        with self._failing():
            if self._kv.read(key).result().state == "missing":
                self._finish(self._begin(name, 0, values, values.shape))
                write_json(self._kv, key, True)

    def write_json(self, key: str, value: Any) -> None:
        """Writes a JSON file beside the arrays."""
        with self._failing():
            write_json(self._kv, key, value)

    def _write(self, part: int, start: int, arrays: dict[str, np.ndarray]) -> None:
        begun = time.perf_counter()
        writes, rows = [], 0
        for name, values in arrays.items():
            check_finite(name, start, values)
            rows = len(values)
            shape = (self.meta["rows"], *values.shape[1:])
            writes.append(self._begin(name, start, values, shape))
            self.bytes += values.nbytes
        for write in writes:
            self._finish(write)
        write_json(self._kv, ledger_key(part), {"rows": [start, start + rows]})
        self.done.add(part)
        self.busy += time.perf_counter() - begun

    def _begin(
        self, name: str, start: int, values: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[str, ts.TensorStore, np.ndarray, Any]:
        where = self._open(name, values, shape)[start : start + len(values)]
        future = where.write(values, can_reference_source_data_indefinitely=True)
        return name, where, values, future

    def _finish(self, write: tuple[str, ts.TensorStore, np.ndarray, Any]) -> None:
        name, where, values, future = write
        try:
            future.result()
        except ValueError as error:
            if is_away(error):
                raise
            # A damaged shard that is not written over from edge to edge is read first: delete it.
            rows, _ = grid_of(where)
            low, high = where.domain[0].inclusive_min, where.domain[0].exclusive_max
            for shard in range(low // rows, -(-high // rows)):
                self._kv.write(f"{name}/c/{shard}" + "/0" * (values.ndim - 1), None).result()
            where.write(values).result()

    def _open(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> ts.TensorStore:
        if name not in self._arrays:
            # Rows that are mostly zeros (SAE features) shrink to a tenth, token ids to a half;
            # dense ones do not.
            compress = values.ndim == 1 or bool((values == 0).mean() > _SPARSE)
            rows, dtype = self.meta["rows_per_part"], ts.dtype(values.dtype).name
            spec = array_spec(self.url, name, shape, dtype, rows, compress)
            existing = {"driver": "zarr3", "kvstore": spec["kvstore"]}

            def reopen() -> ts.TensorStore:
                return ts.open(existing, open=True, context=CONTEXT).result()

            # One of an earlier run, or of a process beside this one, is taken as it is: whether
            # rows shrink is found out only once.
            array = _first_of(
                reopen,
                lambda: ts.open(spec, create=True, context=CONTEXT).result(),
                reopen,
            )
            if array.shape != shape or array.dtype.name != dtype:
                raise InputError(
                    f"Expected {name} in {self.url} of shape {shape} and {dtype}, it has "
                    f"{tuple(array.shape)} and {array.dtype.name}. Delete the store."
                )
            self._arrays[name] = array
        return self._arrays[name]

    def _settle(self) -> None:
        """Waits for the part under way."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._failing():
                pending.result()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Names what a store's failure means to the user."""
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"Could not write activations to {self.url}: {reason(error)} What was finished is "
                "kept; run the same again to go on."
            ) from None


def check_finite(name: str, start: int, values: Shaped[np.ndarray, "n d"]) -> None:
    """Refuses NaN and infinity: NaN marks what was never written.

    Raises:
        InputError: naming the row.
    """
    # The exponent's bits are all ones there, in any dtype; comparing integers converts nothing.
    kind = np.dtype(f"uint{8 * values.dtype.itemsize}")
    largest = np.array(np.inf).astype(values.dtype).view(kind)
    step = max(1, _BLOCK // max(values.shape[1], 1))
    for first in range(0, len(values), step):
        bits = values[first : first + step].view(kind) & kind.type(np.iinfo(kind).max >> 1)
        if bits.max(initial=0) >= largest:
            row = start + first + int((bits >= largest).any(axis=1).argmax())
            raise InputError(
                f"Expected finite activations of {name}, row {row} has NaN or infinity: try "
                "another dtype, or leave that text out."
            )


def _first_of(*ways: Callable[[], ts.TensorStore]) -> ts.TensorStore:
    """What the first way that works gives."""
    for way in ways[:-1]:
        with suppress(ValueError):
            return way()
    return ways[-1]()
