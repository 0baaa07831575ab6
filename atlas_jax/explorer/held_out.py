"""The held-out texts and activations of a run, of which little is read at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from atlas_jax.activations.kvstore import open_kvstore
from atlas_jax.activations.layout import grid_of, top_key
from atlas_jax.activations.site_array import SiteArray
from atlas_jax.activations.top_samples import TopSamples, find_top_samples, load_top_samples
from atlas_jax.errors import InputError
from atlas_jax.outside import refusing
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.progress import track

SAMPLES = 8
"""Texts that are shown of a feature."""
_SAMPLE_BYTES = 32 * 2**20
_SAMPLE_ROWS = 2048
_READ = 4096
_GROUPS = 8


@dataclass(frozen=True)
class Spread:
    """How a feature's pooled activations are distributed over some of the held-out texts.

    Attributes:
        counts: of each bin.
        edges: of the bins.
        n: texts that were counted.
        total: texts that there are.
    """

    counts: Int[np.ndarray, " bins"]
    edges: Float32[np.ndarray, " edges"]
    n: int
    total: int


class HeldOut:
    """Rows of the run's held-out store with their texts; nothing is written."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._lock = threading.RLock()
        self._tops: dict[str, TopSamples] = {}
        self._samples: dict[str, np.ndarray] = {}
        self._groups: dict[int, Any] = {}
        self._table: tuple[Any, int, list[int]] | None = None

    def rows(self, site: str) -> SiteArray:
        """The activations of a site, under the pooling that the run was fitted with.

        Raises:
            InputError: not there.
        """
        store, pool = self.run.held_out, self.run.recipe.get("capture", {}).get("pool")
        pools = store.pools(site)
        return store[site, pool if pool in pools else pools[0]]

    def top(self, site: str) -> TopSamples:
        """The texts that activate each feature most: those found before, or by one pass now."""
        with self._lock:
            if site not in self._tops:
                rows = self.rows(site)
                k = min(SAMPLES, len(rows))
                kv = open_kvstore(self.run.held_out.url)
                found = load_top_samples(kv, top_key(site, rows.meta["pool"]), k)
                if found is None:
                    batches = track(
                        rows.batches(_READ), f"top texts, {site}", -(-len(rows) // _READ)
                    )
                    found = find_top_samples(batches, rows.shape[1], k)
                self._tops[site] = found
            return self._tops[site]

    def text(self, row: int) -> tuple[str, str]:
        """A text and its source.

        Raises:
            InputError: a corpus that the store was not captured on.
        """
        with self._lock:
            file, first, ends = self._table or self._open()
            self._table = (file, first, ends)
            place = first + row
            group = int(np.searchsorted(ends, place, side="right"))
            if not 0 <= group < len(ends):
                raise InputError(f"Expected a text for row {row}, the corpus of the run has none.")
            if group not in self._groups:
                while len(self._groups) >= _GROUPS:
                    del self._groups[next(iter(self._groups))]
                self._groups[group] = file.read_row_group(group, columns=["text", "source"])
            at = place - (ends[group - 1] if group else 0)
            table = self._groups[group]
            return str(table["text"][at].as_py()), str(table["source"][at].as_py())

    def spread(self, site: str, feature: int, bins: int = 30) -> Spread:
        """The distribution of a feature over evenly spaced stretches of the texts."""
        values = self._sample(site)[:, feature].astype(np.float32)
        low, high = min(0.0, float(values.min())), float(values.max())
        counts, edges = np.histogram(values, bins, (low, high if high > low else low + 1.0))
        return Spread(counts, edges.astype(np.float32), len(values), len(self.rows(site)))

    def _sample(self, site: str) -> np.ndarray:
        """Whole chunks, the rows of which lie together on disk."""
        with self._lock:
            if site not in self._samples:
                rows = self.rows(site)
                _, chunk = grid_of(rows.array)
                wide = rows.shape[1] * rows.dtype.itemsize
                wanted = max(1, min(_SAMPLE_ROWS, _SAMPLE_BYTES // wide) // chunk)
                starts = np.arange(0, len(rows), chunk)
                picks = starts[np.unique(np.linspace(0, len(starts) - 1, wanted).astype(int))]
                parts = [rows[int(start) : int(start) + chunk] for start in picks]
                self._samples[site] = np.concatenate(parts)
            return self._samples[site]

    def _open(self) -> tuple[Any, int, list[int]]:
        """The table of texts, where its held-out half begins, and where its row groups end."""
        import pyarrow.parquet as pq

        from atlas_jax.corpus.writer import TABLE, read_card

        folder = self.run.corpus_folder
        with refusing(f"the corpus in {folder}", "Build it again"):
            card = read_card(folder)
            first, known = int(card["train"]["texts"]), card["eval"]["hash"]
            file = pq.ParquetFile(folder / TABLE, memory_map=True)
        if known != self.run.held_out.meta["texts"]:
            raise InputError(
                f"Expected the texts that the held-out store was captured on in {folder}, got "
                "others: run the recipe again."
            )
        groups = range(file.metadata.num_row_groups)
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in groups])
        return file, first, ends.tolist()
