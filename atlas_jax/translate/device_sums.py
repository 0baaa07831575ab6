"""Moments accumulated by JAX on a mesh: rows on the axis `data`, atlas features on `model`.

Each device adds what its own rows give, and nothing is sent until the end: the sums of the devices
are added once. Several processes each read their own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from atlas_jax.kernels import chosen, gram, top_rows
from atlas_jax.on_host import on_host
from atlas_jax.translate.moments import AtlasMoments, Moments, SiteMoments, Wanted
from atlas_jax.translate.semantic_lens import TopSamples

P = PartitionSpec
State = dict[str, Any]


class DeviceSums:
    """Sums over batches of rows.

    Products are taken in float32 of rows shifted by the first batch's mean (in float64 where a
    Gram matrix asks for it), and added in float64.

    Args:
        widths: d_s of each site.
        atlas_width: d_c.
        wanted: which sums.
        columns: the block of atlas features whose products are taken; default: all.
        batch_rows: at most; smaller batches are filled up.
        mesh: default: one device.
        start: moments to go on from.
    """

    layout, density = "dense", float("nan")

    def __init__(
        self,
        widths: Mapping[str, int],
        atlas_width: int,
        wanted: Wanted,
        columns: tuple[int, int] | None = None,
        batch_rows: int = 4096,
        mesh: Mesh | None = None,
        start: Moments | None = None,
    ) -> None:
        self.mesh = mesh or Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
        self.widths, self.atlas_width, self.wanted = dict(widths), atlas_width, wanted
        self.columns, self.start, self.n = columns or (0, atlas_width), start, 0
        data = self.mesh.shape["data"]
        self.batch_rows = -(-batch_rows // data) * data
        mine = NamedSharding(self.mesh, P("data")).addressable_devices_indices_map(
            (self.batch_rows,)
        )
        spans = [index[0].indices(self.batch_rows)[:2] for index in mine.values() if index]
        self.mine = min(a for a, _ in spans), max(b for _, b in spans)
        self.shifts: State | None = None
        self.state: State = {}

    def local(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of a batch that this process must read."""
        low, high = self.mine
        return min(start + low, stop), min(start + high, stop)

    def prepare(self, rows: Shaped[np.ndarray, "n dc"]) -> Array:
        """This process' atlas rows of a batch, on the devices."""
        return self._place(rows)

    def _place(self, rows: np.ndarray) -> Array:
        low, high = self.mine
        full = np.zeros((high - low, *rows.shape[1:]), rows.dtype)
        full[: len(rows)] = rows
        shape = (self.batch_rows, *rows.shape[1:])
        return jax.make_array_from_process_local_data(
            NamedSharding(self.mesh, P("data")), full, shape
        )

    def add(
        self,
        subjects: Mapping[str, Shaped[np.ndarray, "n ..."]],
        atlas: Array,
        start: int,
        stop: int,
    ) -> None:
        """Adds the rows from `start` to `stop`, of which this process has its own."""
        with jax.enable_x64(True):
            acts = {site: self._place(rows) for site, rows in subjects.items()}
            low, high = self.mine
            number = np.arange(start + low, start + high, dtype=np.int32)
            number = self._place(np.where(number < stop, number, np.int32(-1)))
            if self.shifts is None:
                rows = {"atlas": atlas, "sites": acts}
                self.shifts = _means(rows, number, NamedSharding(self.mesh, P()))
                self.state = self._empty()
            self.state = _update(
                self.state,
                acts,
                atlas,
                number,
                self.shifts,
                mesh=self.mesh,
                columns=self.columns,
                wanted=self.wanted,
            )
        self.n += stop - start

    def _empty(self) -> State:
        data, model = self.mesh.shape["data"], self.mesh.shape["model"]
        block = -(-(self.columns[1] - self.columns[0]) // model) * model

        def zeros(*shape: int) -> Array:
            spec = P("data", "model") if len(shape) == 2 else P("data")
            sharding = NamedSharding(self.mesh, spec)
            return jnp.zeros((data, *shape), jnp.float64, device=sharding)

        def top(width: int) -> TopSamples:
            empty = TopSamples.empty(width, self.wanted.top)
            parts = (empty.values, empty.indices.astype(np.int32), empty.least)
            sharding = NamedSharding(self.mesh, P("data"))
            return TopSamples(
                *(  # type: ignore[arg-type]
                    jnp.full((data, *part.shape), part.flat[0], part.dtype, device=sharding)
                    for part in parts
                )
            )

        wanted, width = self.wanted, self.atlas_width
        side = ("total", "squares", "unit_total")
        return {
            "atlas": {name: zeros(width) for name in side}
            | ({"gram": zeros(block, width)} if wanted.gram else {})
            | ({"unit_gram": zeros(block, width)} if wanted.unit_gram else {}),
            "sites": {
                site: {name: zeros(ds) for name in side}
                | ({"cross": zeros(block, ds)} if wanted.cross else {})
                | ({"unit": zeros(block, ds)} if wanted.unit else {})
                | ({"top": top(ds)} if wanted.top else {})
                for site, ds in self.widths.items()
            },
        }

    def moments(self) -> Moments:
        """The sums so far, on every process.

        A_c' A_s = sum (a_c - c)(a_s - s)' + c (sum a_s - s)' + (sum a_c) s'
        """
        if self.shifts is None:
            return self.start or Moments.zeros(
                self.widths, self.atlas_width, self.wanted, self.columns
            )
        with jax.enable_x64(True):
            whole = jax.tree.map(lambda x: np.array(on_host(x)), _added(self.state, self.mesh))
            shifts = jax.tree.map(lambda x: np.array(x, np.float64), self.shifts)
        block = slice(*self.columns)
        far = shifts["atlas"]
        atlas = self._side(whole["atlas"], far)
        sites = {}
        for site, found in whole["sites"].items():
            near, moved = shifts["sites"][site], found["total"].copy()
            tops = found.pop("top", None)
            mine = self._side(found, near)
            if "cross" in mine:
                mine["cross"] += np.outer(far[block], moved)
                mine["cross"] += np.outer(atlas["total"][block], near)
            sites[site] = SiteMoments(**mine, top=_merged(tops))
        found = Moments(self.n, AtlasMoments(**atlas), sites)
        return self.start.merge(found) if self.start else found

    def _side(self, found: State, shift: np.ndarray) -> dict[str, np.ndarray]:
        total = found["total"]
        block = self.columns[1] - self.columns[0]
        return {
            name: value[:block] if value.ndim == 2 else value for name, value in found.items()
        } | {
            "total": total + self.n * shift,
            "squares": found["squares"] + shift * (2 * total + self.n * shift),
        }


def _merged(tops: TopSamples | None) -> TopSamples | None:
    if tops is None:
        return None
    parts = [
        TopSamples(v, i.astype(np.int64), least)
        for v, i, least in zip(tops.values, tops.indices, tops.least, strict=True)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


@partial(jax.jit, static_argnames="mesh")
def _added(state: State, mesh: Mesh) -> State:
    """Sums over the devices, matrices split as they were; the top samples of each stay apart."""

    def add(x: Array) -> Array:
        if x.dtype != jnp.float64:
            return lax.with_sharding_constraint(x, NamedSharding(mesh, P("data")))
        spec = P("model") if x.ndim == 3 else P()
        return lax.with_sharding_constraint(jnp.sum(x, axis=0), NamedSharding(mesh, spec))

    return jax.tree.map(add, state)


@partial(jax.jit, static_argnames="sharding")
def _means(rows: State, number: Array, sharding: NamedSharding) -> State:
    """Mean of the rows that are there."""
    count = jnp.maximum(jnp.sum(number >= 0, dtype=jnp.int32), 1).astype(jnp.float32)

    def mean(x: Array) -> Array:
        rows = x.astype(jnp.float32)
        first = rows[0]  # beside which float32 holds the others, whatever their mean
        moved = jnp.where((number >= 0)[:, None], rows - first[None], jnp.float32(0))
        result = first + jnp.sum(moved, axis=0) / count
        return lax.with_sharding_constraint(result, sharding)

    return jax.tree.map(mean, rows)


@partial(jax.jit, static_argnames=("mesh", "columns", "wanted"), donate_argnums=0)
def _update(
    state: State,
    subjects: dict[str, Array],
    atlas: Array,
    number: Array,
    shifts: State,
    *,
    mesh: Mesh,
    columns: tuple[int, int],
    wanted: Wanted,
) -> State:
    specs = jax.tree.map(lambda x: P("data", "model") if x.ndim == 3 else P("data"), state)
    for site in specs["sites"].values():
        if "top" in site:
            site["top"] = TopSamples(P("data"), P("data"), P("data"))  # type: ignore[arg-type]
    local = partial(_add_local, columns=columns, wanted=wanted, parts=mesh.shape["model"])
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, P("data"), P("data"), P("data"), P()),
        out_specs=specs,
        check_vma=False,  # vectors are computed alike on every part of `model`
    )
    return mapped(state, subjects, atlas, number, shifts)


def _add_local(
    state: State,
    subjects: dict[str, Array],
    atlas: Array,
    number: Array,
    shifts: State,
    *,
    columns: tuple[int, int],
    wanted: Wanted,
    parts: int,
) -> State:
    """What one device adds to its own sums."""
    live = (number >= 0).astype(jnp.float32)[:, None]
    raw = atlas.astype(jnp.float32)

    def block(x: Array) -> Array:
        """The atlas features that this device has the products of."""
        width = columns[1] - columns[0]
        part = -(-width // parts)
        padded = jnp.pad(x[:, columns[0] : columns[1]], ((0, 0), (0, part * parts - width)))
        return lax.dynamic_slice_in_dim(padded, lax.axis_index("model") * part, part, axis=1)

    def square(x: Array) -> Array:
        """This device's block of x' x, or all of it where that is the block and a kernel helps."""
        whole = parts == 1 and columns == (0, x.shape[1])
        return gram(x) if whole and chosen("gram") else _product(block(x), x)

    moved = (raw - shifts["atlas"][None, :]) * live
    length = _inverse_norms(raw)
    unit = raw * length
    mine = _vectors(state["atlas"], moved, unit)
    if wanted.gram:
        mine["gram"] = _grown(state["atlas"]["gram"], square(raw.astype(wanted.gram)))
    if wanted.unit_gram:
        mine["unit_gram"] = _grown(state["atlas"]["unit_gram"], square(unit))
    sites = {}
    for site, acts in subjects.items():
        old, rows = state["sites"][site], acts.astype(jnp.float32)
        near = (rows - shifts["sites"][site][None, :]) * live
        units = rows * _inverse_norms(rows)
        new = _vectors(old, near, units)
        if wanted.cross:
            new["cross"] = _grown(old["cross"], _product(block(moved), near))
        if wanted.unit:
            new["unit"] = _grown(old["unit"], _product(block(unit), units))
        if wanted.top:
            new["top"] = _add_top(old["top"], rows, number)
        sites[site] = new
    return {"atlas": mine, "sites": sites}


def _vectors(old: State, moved: Array, unit: Array) -> State:
    return {
        "total": _grown(old["total"], jnp.sum(moved, axis=0)),
        "squares": _grown(old["squares"], jnp.sum(moved * moved, axis=0)),
        "unit_total": _grown(old["unit_total"], jnp.sum(unit, axis=0)),
    }


def _grown(total: Array, x: Array) -> Array:
    return total + x.astype(jnp.float64)[None]


def _inverse_norms(rows: Array) -> Array:
    """1 / ||row||, 0 for a zero row: (n, 1)."""
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.where(norms > 0, 1.0 / jnp.where(norms > 0, norms, jnp.float32(1.0)), jnp.float32(0))


def _product(a: Array, b: Array) -> Array:
    """a' b at full precision: accelerators would else take TF32 or bfloat16 for float32."""
    return lax.dot_general(
        a,
        b,
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=a.dtype,
    )


def _add_top(top: TopSamples, acts: Array, number: Array) -> TopSamples:
    """The k largest of the old ones and the new; among equals, the lower number."""
    values, indices = top_rows(top.values[0], top.indices[0], acts, number)
    least = jnp.min(jnp.where((number >= 0)[:, None], acts, jnp.inf), axis=0)
    least = jnp.minimum(top.least[0], least)
    return TopSamples(values[None], indices[None], least[None])  # type: ignore[arg-type]
