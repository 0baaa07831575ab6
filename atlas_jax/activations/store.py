"""A store of recorded activations: arrays on disk, by site and pooling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import tensorstore as ts

from atlas_jax.activations.kvstore import (
    CONTEXT,
    attempt,
    check_reached,
    first_line,
    keys,
    open_kvstore,
    read_json,
    within,
)
from atlas_jax.activations.layout import array_name, finished_parts, grid_of, ledger_key
from atlas_jax.activations.merged_array import MergedArray
from atlas_jax.activations.meta import read_meta
from atlas_jax.activations.pool import TOKENS
from atlas_jax.activations.site_array import SiteArray, size_text
from atlas_jax.activations.token_array import TokenArray
from atlas_jax.activations.top_samples import TopSamples
from atlas_jax.errors import InputError
from atlas_jax.outside import refusing

_LARGEST_CHUNK = 1 << 28


class ActivationStore:
    """Activations of one model on one list of texts, an array for each site and pooling.

    `store[site]` is a site's array, `store[site, pool]` the one of a pooling.

    Attributes:
        url: where it is.
        meta: what was recorded.
        sites: the names of its sites.
    """

    def __init__(self, url: str | os.PathLike[str], meta: dict[str, Any]) -> None:
        self.url, self.meta = str(url), meta
        self.sites: tuple[str, ...] = tuple(meta["sites"])
        self._open: dict[str, SiteArray] = {}

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> Self:
        """Opens a finished store.

        Raises:
            InputError: no store there, an unfinished one, or one of another format.
        """
        meta, done, total = progress_of(url)
        if done != total:
            raise InputError(
                f"The store at {url} has {done} of {total} parts: run the same capture again, it "
                "goes on where it stopped."
            )
        return cls(url, meta)

    def pools(self, site: str) -> tuple[str, ...]:
        """The poolings of a site.

        Raises:
            InputError: a site that is not there.
        """
        if site not in self.sites:
            raise InputError(
                f"Expected a site among {', '.join(self.sites)} (in {self.url}), got '{site}'."
            )
        return tuple(self.meta["sites"][site]["pools"])

    def __getitem__(self, key: str | tuple[str, str]) -> SiteArray:
        site, pool = key if isinstance(key, tuple) else (key, None)
        pools = self.pools(site)
        if pool is None and pools[1:]:
            raise InputError(
                f"{site} has the poolings {', '.join(pools)} (in {self.url}): choose one, "
                f"store['{site}', '{pools[0]}']."
            )
        pool = pools[0] if pool is None else pool
        if pool not in pools:
            raise InputError(
                f"Expected a pooling of {site} among {', '.join(pools)} (in {self.url}), got "
                f"'{pool}'."
            )
        name = array_name(site, pool)
        if name not in self._open:
            meta = {k: v for k, v in self.meta.items() if k != "sites"} | {"pool": pool}
            kind = TokenArray if pool == TOKENS else SiteArray
            self._open[name] = kind(self._array(site, pool), site, meta, self.url)
        return self._open[name]

    def _array(self, site: str, pool: str) -> ts.TensorStore:
        name, expected = array_name(site, pool), self.meta["sites"][site]
        spec = {"driver": "zarr3", "kvstore": within(self.url, name)}
        try:
            array = ts.open(spec, open=True, read=True, context=CONTEXT).result()
        except (ValueError, OSError) as error:
            check_reached(f"open {name} in {self.url}", error)
            raise InputError(
                f"{name} in {self.url} cannot be opened ({first_line(error)}). Delete the store "
                "and capture again."
            ) from None
        shape = (self.meta["rows"], expected["width"])
        if tuple(array.shape) != shape or array.dtype.name != expected["dtype"]:
            raise InputError(
                f"Expected {name} in {self.url} of shape {shape} and {expected['dtype']}, it has "
                f"{tuple(array.shape)} and {array.dtype.name}: it belongs to another store."
            )
        with refusing(f"{name} in {self.url}", "Delete the store and capture again"):
            _, chunk = grid_of(array)
            if chunk * shape[1] * array.dtype.numpy_dtype.itemsize > _LARGEST_CHUNK:
                raise ValueError(f"its chunks of {chunk} rows are too large")
        self._check_shards(name, array)
        return array

    def _check_shards(self, name: str, array: ts.TensorStore) -> None:
        """A shard that is gone reads as NaN; it is noticed here, before anybody has waited."""
        rows, _ = grid_of(array)
        kv = open_kvstore(self.url)
        there = set(attempt(f"read {self.url}", lambda: keys(kv, f"{name}/c/")))
        for shard, start in enumerate(range(0, array.shape[0], rows)):
            if f"{shard}/0" not in there:
                part = start // self.meta["rows_per_part"]
                raise InputError(
                    f"{name} in {self.url} lacks a shard, c/{shard}/0 (rows {start} to "
                    f"{min(start + rows, array.shape[0]) - 1}). Delete {ledger_key(part)} there "
                    "and run the same capture again: it records them anew."
                )

    def merge(self, sites: Sequence[str | tuple[str, str]] | None = None) -> MergedArray:
        """The columns of several sites side by side; default: of all.

        Args:
            sites: their names, or (site, pool).
        """
        return MergedArray([self[key] for key in (self.sites if sites is None else sites)])

    def top_samples(self, site: str, k: int = 10, pool: str | None = None) -> TopSamples:
        """The k texts that activate each feature of a site most; saved beside the store."""
        return self[site if pool is None else (site, pool)].top_samples(k)

    @property
    def report(self) -> list[dict[str, Any]]:
        """What the last capture of each process took."""
        kv = open_kvstore(self.url)

        def read() -> list[dict[str, Any]]:
            found = (read_json(kv, f"report/{key}") for key in sorted(keys(kv, "report/")))
            return [report for report in found if report is not None]

        return attempt(f"read {self.url}", read)

    def __len__(self) -> int:
        return self.meta["n"]

    def __repr__(self) -> str:
        kinds: dict[tuple[Any, ...], list[str]] = {}
        size = 0
        for site, s in self.meta["sites"].items():
            kinds.setdefault((*s["pools"], s["width"], s["dtype"]), []).append(site)
            itemsize = np.dtype(ts.dtype(s["dtype"]).numpy_dtype).itemsize
            size += self.meta["rows"] * s["width"] * itemsize * len(s["pools"])
        parts = [
            f"{', '.join(sites)} ({', '.join(pools)}; {width:,} x {dtype})"
            for (*pools, width, dtype), sites in kinds.items()
        ]
        tokens = f", {self.meta['tokens']:,} tokens"
        if cut := self.meta.get("cut"):
            tokens += f", {cut:,} texts cut at {self.meta['max_tokens']:,} tokens"
        return (
            f"ActivationStore({self.meta['model']!r}, {len(self):,} texts{tokens}, "
            f"{size_text(size)}: {'; '.join(parts)})"
        )


def progress_of(url: str | os.PathLike[str]) -> tuple[dict[str, Any], int, int]:
    """A store's meta, its finished parts and all of its parts.

    Raises:
        InputError: no store there, or one of another format.
    """
    kv = open_kvstore(url)
    meta = attempt(f"read {url}", lambda: read_meta(kv, url))
    if meta is None:
        raise InputError(f"Expected an activation store at {url}, found none: capture first.")
    total = -(-meta["rows"] // meta["rows_per_part"])
    return meta, len(attempt(f"read {url}", lambda: finished_parts(kv))), total
