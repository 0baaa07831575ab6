"""Ranking over a mesh: scored by rows, sorted by columns; no device holds all rows of all columns.

A batch of rows is scored where it lies, then changes its layout in one all-to-all over `data`:

    rows (B, d)                    rows over `data`
    directions (d, m, q)           queries over `model`, of m methods
    scores of a batch (B, m, q)    rows over `data`, queries over `model`
    scores of all (N, m, q)        queries over `model` and `data`; rows whole, to be sorted

A device holds N m q / devices scores, the labels of as many columns, and one batch of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Shaped

from atlas_jax.activations.device_batches import device_batches
from atlas_jax.activations.site_array import SiteArray, cut_again
from atlas_jax.evaluate.ranking import Ranking, rank_on_device, ranking_quality
from atlas_jax.evaluate.scoring import ROWS, not_finite, row_batches, score
from atlas_jax.on_host import on_devices, on_host
from atlas_jax.progress import track

COLUMNS = P(None, None, ("model", "data"))
_ALL = np.iinfo(np.int32).max


class MeshRanking:
    """`count_positives` and the ranking of samples, over all devices of a mesh.

    Of several processes each reads the rows that its devices hold.

    Args:
        mesh: with the axes `data` and `model`.
        engine: of `ranking_quality`: the host sorts the columns of its own devices; `auto`: where
            they are CPUs.
        rows: of a batch, at most.
    """

    def __init__(self, mesh: Mesh, engine: str = "auto", rows: int = ROWS) -> None:
        data = mesh.shape["data"]
        self.mesh, self.rows = mesh, -(-rows // data) * data
        if engine == "auto":
            engine = "host" if mesh.devices.flat[0].platform == "cpu" else "device"
        self.engine = engine

    def count_positives(self, atlas: Any) -> Int[np.ndarray, " dc"]:
        """How many samples activate each feature."""
        shape = (self.mesh.shape["data"], int(atlas.shape[1]))
        counts = jnp.zeros(shape, jnp.int32, device=self._laid(P("data")))
        for batch in self._batches(atlas, "counting positives"):
            counts = _count(counts, batch, mesh=self.mesh)
        return on_host(counts).sum(axis=0, dtype=np.int64)

    def rank(
        self,
        subject: Any,
        atlas: Any,
        chosen: Int[np.ndarray, " q"],
        directions: Mapping[str, Float[np.ndarray, "ds q"]],
        cosine: bool = False,
    ) -> dict[str, Ranking]:
        """AUROC and AP of each direction by name, against the labels of the atlas features.

        Raises:
            InputError: a score that is not finite.
        """
        n, q = int(subject.shape[0]), len(chosen)
        extra = -q % self.mesh.size
        features = np.pad(chosen.astype(np.int32), (0, extra))
        features = on_devices(features, self._laid(P("model")))
        labels = self._empty(n, 1, q + extra, bool)
        for i, batch in enumerate(self._batches(atlas, "labelling samples")):
            labels = _label(labels, batch, features, i * self.rows, mesh=self.mesh)
        stacked = np.stack([np.pad(d, ((0, 0), (0, extra))) for d in directions.values()], axis=1)
        placed = on_devices(stacked, self._laid(P(None, None, "model")))
        scores = self._empty(n, len(directions), q + extra, jnp.float32)
        bad = jnp.full(tuple(self.mesh.shape.values()), _ALL, device=self._laid(P("data", "model")))
        for i, batch in enumerate(self._batches(subject, "scoring samples")):
            scores, bad = _add(
                scores, bad, batch, placed, i * self.rows, mesh=self.mesh, cosine=cosine
            )
        first = int(on_host(bad).min())
        if first < n:
            raise not_finite(first)
        found = self._ranked(scores, labels, n)
        return {name: Ranking(*found[:, i, :q]) for i, name in enumerate(directions)}

    def _ranked(
        self, scores: Float[Array, "rows m q"], labels: Bool[Array, "rows 1 q"], n: int
    ) -> Float[np.ndarray, "2 m q"]:
        if self.engine == "device":
            return np.asarray(_rank(scores, labels, mesh=self.mesh, n=n), np.float64)
        relevant = {
            shard.device: np.asarray(shard.data)[:n, 0] for shard in labels.addressable_shards
        }
        shape = (2, *scores.shape[1:])
        with jax.enable_x64(True):
            parts = []
            for shard in scores.addressable_shards:
                columns, positive = np.asarray(shard.data)[:n], relevant[shard.device]
                ranked = [ranking_quality(x, positive, "host") for x in columns.swapaxes(0, 1)]
                parts.append(jax.device_put(np.stack(ranked, axis=1), shard.device))
            sharding = self._laid(COLUMNS)
            whole = jax.make_array_from_single_device_arrays(shape, sharding, parts)
            return on_host(whole)

    def _batches(self, site: Any, label: str) -> Iterator[Shaped[Array, "b d"]]:
        """Rows over `data`, the last batch filled up with zeros."""
        sharding, shape = self._laid(P("data")), (self.rows, int(site.shape[1]))
        if isinstance(site, SiteArray):
            batches = (batch for batch, _ in device_batches(site, self.rows, sharding))
        else:
            batches = (
                on_devices(np.pad(rows, ((0, self.rows - len(rows)), (0, 0))), sharding)
                for rows in cut_again(row_batches(site, self.rows), self.rows)
            )
        yield from track(batches, label, -(-int(site.shape[0]) // shape[0]))

    def _laid(self, spec: P) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def _empty(self, n: int, methods: int, columns: int, dtype: Any) -> Array:
        shape = (-(-n // self.rows) * self.rows, methods, columns)
        return jnp.zeros(shape, dtype, device=self._laid(COLUMNS))


def _by_columns(
    whole: Shaped[Array, "rows m own"], mine: Shaped[Array, "b m q"], start: Int[Array, ""]
) -> Shaped[Array, "rows m own"]:
    """A batch's values, of which each device has rows, put where each has columns."""
    columns = lax.all_to_all(mine, "data", split_axis=2, concat_axis=0, tiled=True)
    return lax.dynamic_update_slice_in_dim(whole, columns, start, axis=0)


@partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _count(
    counts: Int[Array, "data dc"], batch: Shaped[Array, "b dc"], *, mesh: Mesh
) -> Int[Array, "data dc"]:
    def local(counts: Array, rows: Array) -> Array:
        return counts + jnp.sum(rows > 0, axis=0, dtype=jnp.int32)[None]

    spec = P("data")
    return jax.shard_map(local, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(counts, batch)


@partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _label(
    labels: Bool[Array, "rows 1 q"],
    batch: Shaped[Array, "b dc"],
    chosen: Int[Array, " q"],
    start: Any,
    *,
    mesh: Mesh,
) -> Bool[Array, "rows 1 q"]:
    def local(labels: Array, rows: Array, chosen: Array, start: Array) -> Array:
        return _by_columns(labels, rows[:, None, chosen] > 0, start)

    specs = (COLUMNS, P("data"), P("model"), P())
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=COLUMNS)(
        labels, batch, chosen, start
    )


@partial(jax.jit, static_argnames=("mesh", "cosine"), donate_argnums=(0, 1))
def _add(
    scores: Float[Array, "rows m q"],
    bad: Int[Array, "data model"],
    batch: Shaped[Array, "b ds"],
    directions: Float[Array, "ds m q"],
    start: Any,
    *,
    mesh: Mesh,
    cosine: bool,
) -> tuple[Float[Array, "rows m q"], Int[Array, "data model"]]:
    """Scores of a batch, and the first sample so far that has one that is not finite."""

    def local(
        scores: Array, bad: Array, rows: Array, directions: Array, start: Array
    ) -> tuple[Array, Array]:
        width, *columns = directions.shape
        found = score(rows.astype(jnp.float32), directions.reshape(width, -1), cosine=cosine)
        number = start + lax.axis_index("data") * len(rows) + jnp.arange(len(rows), dtype=jnp.int32)
        first = jnp.min(jnp.where(jnp.isfinite(found).all(axis=1), _ALL, number))
        return _by_columns(scores, found.reshape(-1, *columns), start), jnp.minimum(bad, first)

    specs = (COLUMNS, P("data", "model"))
    return jax.shard_map(
        local, mesh=mesh, in_specs=(*specs, P("data"), P(None, None, "model"), P()), out_specs=specs
    )(scores, bad, batch, directions, start)


@partial(jax.jit, static_argnames=("mesh", "n"))
def _rank(
    scores: Float[Array, "rows m q"], labels: Bool[Array, "rows 1 q"], *, mesh: Mesh, n: int
) -> Float[Array, "2 m q"]:
    def local(scores: Array, labels: Array) -> Array:
        methods = range(scores.shape[1])
        found = [rank_on_device(scores[:, m], labels[:, 0], n) for m in methods]
        return jnp.stack([jnp.stack(pair) for pair in found], axis=1)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(COLUMNS, COLUMNS), out_specs=COLUMNS)
    return lax.with_sharding_constraint(mapped(scores, labels), NamedSharding(mesh, P()))
