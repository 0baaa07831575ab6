"""Writing a store, one shard at a time; what was finished before is kept."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorstore as ts

from atlas_jax.activations.layout import (
    CONTEXT,
    FORMAT,
    META,
    array_spec,
    finished_shards,
    ledger_key,
    open_kvstore,
    read_json,
    write_json,
)
from atlas_jax.errors import InputError

_SPARSE = 0.5


class StoreWriter:
    """The one writer of a store, used as a context manager.

    Args:
        url: folder or kvstore URL.
        meta: what is being recorded; a store that holds something else is refused.

    Raises:
        InputError: the store holds another recording, another process writes to it, or the place
            cannot be written to.
    """

    def __init__(self, url: str | os.PathLike[str], meta: dict[str, Any]) -> None:
        self.url = url
        self.meta = {"format": FORMAT, **meta}
        self.rows_per_shard: int = meta["rows_per_shard"]
        self._lock: int | None = None
        self._arrays: dict[str, ts.TensorStore] = {}
        self._pending: tuple[int, list[Any]] | None = None

    def __enter__(self) -> Self:
        try:
            self._take_lock()
            self._kv = open_kvstore(self.url)
            found = read_json(self._kv, META)
            if found is None:
                write_json(self._kv, META, self.meta)
        except (OSError, ValueError) as error:
            self._release()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Expected to write activations to {self.url}: {_reason(error)}"
            ) from None
        if found is not None and found != self.meta:
            self._release()
            key = next(k for k in {**found, **self.meta} if found.get(k) != self.meta.get(k))
            raise InputError(
                f"Expected {key} = {_short(self.meta.get(key))} in {self.url}, it holds "
                f"{_short(found.get(key))}. Use another folder, or delete this one."
            )
        self.done = finished_shards(self._kv)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._settle()
        finally:
            self._release()

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole store."""
        return -(-self.meta["n"] // self.rows_per_shard)

    def write(self, shard: int, arrays: dict[str, np.ndarray]) -> None:
        """Starts writing a shard of every site, and waits for the one before it.

        Raises:
            InputError: a value that is not finite (naming the row), or a full disk.
        """
        start = shard * self.rows_per_shard
        writes = []
        for site, values in arrays.items():
            if not np.isfinite(values.astype(np.float32).sum()):
                bad = np.flatnonzero(~np.isfinite(values.astype(np.float32)).all(axis=1))
                if len(bad):
                    raise InputError(
                        f"Expected finite activations at {site}, row {start + bad[0]} has NaN or "
                        "infinity: try another dtype, or leave that text out."
                    )
            array = self._array(site, values)
            writes.append(array[start : start + len(values)].write(values).commit)
        self._settle()
        self._pending = (shard, writes)

    def _array(self, site: str, values: np.ndarray) -> ts.TensorStore:
        if site not in self._arrays:
            # Rows that are mostly zeros (SAE features) shrink to a tenth; dense ones do not.
            sparse = bool((values == 0).mean() > _SPARSE)
            shape = (self.meta["n"], self.meta["sites"][site]["width"])
            dtype = self.meta["sites"][site]["dtype"]
            spec = array_spec(self.url, site, shape, dtype, self.rows_per_shard, sparse)
            # An array of an earlier run is opened as it is, whatever this shard's sparsity.
            existing = {"driver": "zarr3", "kvstore": spec["kvstore"]}
            try:
                self._arrays[site] = ts.open(existing, open=True, context=CONTEXT).result()
            except ValueError:
                self._arrays[site] = ts.open(spec, create=True, context=CONTEXT).result()
        return self._arrays[site]

    def _settle(self) -> None:
        """Waits for the shard under way, then enters it in the ledger."""
        if self._pending is None:
            return
        shard, writes = self._pending
        self._pending = None
        try:
            for write in writes:
                write.result()
            write_json(self._kv, ledger_key(shard), {"sites": sorted(self._arrays)})
        except (OSError, ValueError) as error:
            raise InputError(
                f"Could not write activations to {self.url}: {_reason(error)} What was finished "
                "is kept; run the same again to go on."
            ) from None
        self.done.add(shard)

    def _take_lock(self) -> None:
        if "://" in str(self.url):
            return
        folder = Path(self.url).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / ".writer", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process is writing to {self.url}: wait for it, or use another folder."
            ) from None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _reason(error: Exception) -> str:
    text = str(error)
    if "No space left" in text:
        return "no space left on the disk. Free some."
    return text.splitlines()[0][:300].rstrip(".") + "."


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
