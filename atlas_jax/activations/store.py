"""Recorded activations: arrays on disk that read like arrays."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Int, Shaped

from atlas_jax.activations.layout import (
    CONTEXT,
    FORMAT,
    META,
    finished_shards,
    open_kvstore,
    read_json,
    within,
)
from atlas_jax.errors import InputError


class SiteArray:
    """The activations of one site, (N, d), read from disk as they are asked for.

    Attributes:
        site: its name.
        shape: (N, d).
        meta: what was recorded: model, fingerprint, texts (the hash of the corpus), pool.
    """

    def __init__(self, array: ts.TensorStore, site: str, meta: dict[str, Any], url: str) -> None:
        self._array, self.site, self.meta, self._url = array, site, meta, url
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.dtype = np.dtype(array.dtype.numpy_dtype)

    def __repr__(self) -> str:
        return f"SiteArray({self.site!r}, {self.shape[0]} x {self.shape[1]}, {self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | int) -> Shaped[np.ndarray, "..."]:
        return self._read(self._array[rows])

    def rows(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m d"]:
        """Some rows, in the order asked for."""
        wanted, back = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        return self._read(self._array[wanted])[back]

    def columns(self, indices: Sequence[int] | Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "N m"]:
        """Some features of all rows."""
        wanted = np.asarray(indices, np.int64)
        return np.concatenate([batch[:, wanted] for batch in self.batches(2048)])

    def batches(self, size: int, prefetch: int = 2) -> Iterator[Shaped[np.ndarray, "b d"]]:
        """All rows in order, `size` at a time; `prefetch` reads are under way ahead."""
        waiting: deque[Any] = deque()
        for start in range(0, self.shape[0], size):
            part = self._array[start : min(start + size, self.shape[0])]
            waiting.append((part, part.read()))
            if len(waiting) > prefetch:
                yield self._checked(*waiting.popleft())
        while waiting:
            yield self._checked(*waiting.popleft())

    def _read(self, part: ts.TensorStore) -> np.ndarray:
        return self._checked(part, part.read())

    def _checked(self, part: ts.TensorStore, future: Any) -> np.ndarray:
        try:
            values = np.asarray(future.result())
        except (ValueError, OSError) as error:
            raise InputError(
                f"{self.site} in {self._url} is damaged ({str(error).splitlines()[0][:200]}). "
                "Delete the store and capture again."
            ) from None
        if np.isnan(values.astype(np.float32, copy=False).sum()):
            raise InputError(
                f"{self.site} in {self._url} lacks a shard that was written (rows "
                f"{part.domain[0].inclusive_min} to {part.domain[0].exclusive_max}). Delete the "
                "store and capture again."
            )
        return values


class ActivationStore:
    """Pooled activations of one model on one list of texts, one array for each site.

    Attributes:
        url: where it is.
        meta: what was recorded.
        sites: the names of its arrays.
    """

    def __init__(self, url: str | os.PathLike[str], meta: dict[str, Any]) -> None:
        self.url, self.meta = str(url), meta
        self.sites: tuple[str, ...] = tuple(meta["sites"])
        self._open: dict[str, SiteArray] = {}

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> ActivationStore:
        """Opens a finished store.

        Raises:
            InputError: no store there, an unfinished one, or one of a newer format.
        """
        kv = open_kvstore(url)
        meta = read_json(kv, META)
        if meta is None:
            raise InputError(f"Expected an activation store at {url}, found none: capture first.")
        if meta.get("format") != FORMAT:
            raise InputError(
                f"Expected a store of format {FORMAT} at {url}, got {meta.get('format')}: it was "
                "written by another version."
            )
        total = -(-meta["n"] // meta["rows_per_shard"])
        done = len(finished_shards(kv))
        if done != total:
            raise InputError(
                f"The store at {url} has {done} of {total} shards: run the same capture again, it "
                "goes on where it stopped."
            )
        return cls(url, meta)

    def __getitem__(self, site: str) -> SiteArray:
        if site not in self.sites:
            raise InputError(
                f"Expected a site among {', '.join(self.sites)} (in {self.url}), got '{site}'."
            )
        if site not in self._open:
            spec = {"driver": "zarr3", "kvstore": within(self.url, site)}
            try:
                array = ts.open(spec, open=True, read=True, context=CONTEXT).result()
            except (ValueError, OSError) as error:
                raise InputError(
                    f"{site} in {self.url} cannot be opened ({str(error).splitlines()[0][:200]}). "
                    "Delete the store and capture again."
                ) from None
            self._open[site] = SiteArray(array, site, self.meta, self.url)
        return self._open[site]

    def __len__(self) -> int:
        return self.meta["n"]

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} ({s['width']})" for site, s in self.meta["sites"].items())
        return f"ActivationStore({self.meta['model']!r}, {len(self)} texts, {sites})"
