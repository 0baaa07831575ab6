"""Fit translations: one pass over the rows, whatever methods and subject sites are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from atlas_jax.errors import InputError
from atlas_jax.progress import Bar
from atlas_jax.translate.linear import (
    GramSpectrum,
    correlation,
    covariance,
    linear_regression,
    ridge,
)
from atlas_jax.translate.moments import (
    CrossMoments,
    CrossState,
    ProductState,
    UnitCrossState,
    check_pair,
)
from atlas_jax.translate.procrustes import procrustes
from atlas_jax.translate.semantic_lens import TopSamples, semantic_lens
from atlas_jax.translate.translation import Translation


class Rows(Protocol):
    """Rows of activations: a `SiteArray`."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def batches(self, size: int) -> Iterator[np.ndarray]: ...

    def rows(self, indices: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class InMemory:
    """A numpy matrix as `Rows`."""

    array: np.ndarray
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        return self.array.shape  # type: ignore[return-value]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order."""
        for start in range(0, len(self.array), size):
            yield self.array[start : start + size]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Some rows."""
        return self.array[indices]


@dataclass(frozen=True)
class Options:
    """Settings of the methods.

    Attributes:
        alpha: of ridge, relative to the mean of the Gram's diagonal.
        k: samples of Semantic Lens.
        rcond: rank cut of Procrustes.
        polar: method of the polar factor.
    """

    alpha: float = 1.0
    k: int = 20
    rcond: float = 3e-7
    polar: str = "auto"


@dataclass(frozen=True)
class Sums:
    """The finished sums of one subject site; only those that the asked methods need."""

    moments: CrossMoments | None
    cross: np.ndarray | None
    spectrum: GramSpectrum | None
    unit_cross: np.ndarray | None
    top: TopSamples | None
    gather: Callable[[np.ndarray], np.ndarray]
    width: int


@dataclass(frozen=True)
class Method:
    """A translation method: which sums it needs, and how the matrix comes out of them."""

    needs: frozenset[str]
    solve: Callable[[Sums, Options], tuple[np.ndarray, dict[str, Any]]]


def _covariance(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.moments is not None
    return covariance(sums.moments), {}


def _correlation(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.moments is not None
    return correlation(sums.moments), {}


def _linear_regression(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.cross is not None and sums.spectrum is not None
    return linear_regression(sums.cross, sums.spectrum), {"rank": sums.spectrum.rank}


def _ridge(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.cross is not None and sums.spectrum is not None
    scale = float(sums.spectrum.values.sum() / max(sums.width, 1))
    alpha = options.alpha * scale
    return ridge(sums.cross, sums.spectrum, alpha), {"alpha": alpha, "rank": sums.spectrum.rank}


def _procrustes(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.unit_cross is not None
    result = procrustes(sums.unit_cross, options.polar, options.rcond)
    rows, columns = sums.unit_cross.shape
    return result.factor, {
        "rank": result.rank,
        "residual": result.residual,
        "polar": result.method,
        "rcond": options.rcond,
        "constraint": "T T' = I" if rows <= columns else "T' T = I",
    }


def _semantic_lens(sums: Sums, options: Options) -> tuple[np.ndarray, dict[str, Any]]:
    assert sums.top is not None
    return semantic_lens(sums.top, sums.gather, sums.width), {"k": sums.top.values.shape[1]}


METHODS: dict[str, Method] = {
    "covariance": Method(frozenset({"moments"}), _covariance),
    "correlation": Method(frozenset({"moments"}), _correlation),
    "linear_regression": Method(frozenset({"regression"}), _linear_regression),
    "ridge": Method(frozenset({"regression"}), _ridge),
    "procrustes": Method(frozenset({"unit"}), _procrustes),
    "semantic_lens": Method(frozenset({"top"}), _semantic_lens),
}
"""The translation methods by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SiteState:
    """The running sums of one subject site."""

    moments: CrossState | None
    unit: UnitCrossState | None
    top: TopSamples | None


@jax.jit
def _update(
    states: dict[str, SiteState], subjects: dict[str, Array], atlas: Array, start: Array
) -> dict[str, SiteState]:
    return {
        site: SiteState(
            state.moments and state.moments.update(subjects[site], atlas),
            state.unit and state.unit.update(subjects[site], atlas),
            state.top and state.top.update(subjects[site], start),
        )
        for site, state in states.items()
    }


@overload
def fit(
    subject: Rows | np.ndarray,
    atlas: Any,
    methods: Sequence[str] = ...,
    *,
    options: Options = ...,
    batch_rows: int = ...,
    mesh: Mesh | None = ...,
) -> dict[str, Translation]: ...
@overload
def fit(
    subject: Mapping[str, Rows | np.ndarray],
    atlas: Any,
    methods: Sequence[str] = ...,
    *,
    options: Options = ...,
    batch_rows: int = ...,
    mesh: Mesh | None = ...,
) -> dict[str, dict[str, Translation]]: ...
def fit(
    subject: Any,
    atlas: Any,
    methods: Sequence[str] = ("procrustes",),
    *,
    options: Options = Options(),
    batch_rows: int = 1024,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Fits translations from rows of activations of the same samples.

    Every row is read once for all methods and sites together. The result does not depend on
    `batch_rows` nor on the mesh but for float32 rounding.

    Args:
        subject: (N, d_s): a site of a store, or a matrix; or a dict of those by site, which share
            the atlas side's work.
        atlas: (N, d_c): the same, or a store that has one site.
        methods: names among `METHODS`.
        options: settings of the methods.
        batch_rows: rows taken together.
        mesh: rows are spread over its `data` axis; default: one device.

    Returns:
        {method: Translation}, or {site: {method: Translation}} for a dict.

    Raises:
        InputError: an unknown method, sides with different samples, or values that are not finite.
    """
    _check_methods(methods)
    several = isinstance(subject, Mapping)
    subjects = {str(k): _rows(v) for k, v in subject.items()} if several else {"": _rows(subject)}
    concepts = _rows(atlas)
    if not subjects:
        raise InputError("Expected at least one subject site, got none.")
    for site in subjects.values():
        check_pair(site.shape, concepts.shape)
        _same_texts(site, concepts)
    sums = _accumulate(subjects, concepts, methods, options, batch_rows, mesh)
    results: dict[str, dict[str, Translation]] = {}
    with Bar("solving", len(subjects) * len(methods)) as bar:
        for site, rows in subjects.items():
            results[site] = {}
            for name in methods:
                matrix, diagnostics = METHODS[name].solve(sums[site], options)
                meta = _meta(rows, concepts, site) | {"options": diagnostics}
                results[site][name] = Translation(name, matrix.astype(np.float32), meta)
                bar.advance()
    return results if several else results[""]


def _accumulate(
    subjects: dict[str, Rows],
    atlas: Rows,
    methods: Sequence[str],
    options: Options,
    batch_rows: int,
    mesh: Mesh | None,
) -> dict[str, Sums]:
    needs = frozenset().union(*(METHODS[name].needs for name in methods))
    n, dc = atlas.shape
    widths = {site: rows.shape[1] for site, rows in subjects.items()}
    states: dict[str, SiteState] = {}
    normal: dict[str, ProductState] = {}
    gram: ProductState | None = None
    if "regression" in needs:
        normal = {site: ProductState.init(width, dc) for site, width in widths.items()}
        gram = ProductState.init(dc, dc)
    streams = {site: rows.batches(batch_rows) for site, rows in subjects.items()}
    with Bar("accumulating moments", n) as bar:
        start = 0
        for concepts in atlas.batches(batch_rows):
            batch = {site: np.asarray(next(stream)) for site, stream in streams.items()}
            _check_finite({**batch, "the atlas": concepts}, start)
            s = {site: _put(acts, mesh) for site, acts in batch.items()}
            c = _put(np.asarray(concepts), mesh)
            if start == 0:
                states = {
                    site: SiteState(
                        CrossState.init(s[site], c) if "moments" in needs else None,
                        UnitCrossState.init(width, dc) if "unit" in needs else None,
                        TopSamples.init(width, min(options.k, n)) if "top" in needs else None,
                    )
                    for site, width in widths.items()
                }
            states = _update(states, s, c, jnp.int32(start))
            normal = {site: state.update(s[site], c) for site, state in normal.items()}
            gram = gram and gram.update(c, c)
            start += len(concepts)
            bar.advance(len(concepts))
    spectrum = None
    if gram is not None:
        with Bar("decomposing the atlas Gram matrix"):
            spectrum = GramSpectrum(gram.finalize())
    return {
        site: Sums(
            state.moments and state.moments.finalize(),
            normal[site].finalize() if normal else None,
            spectrum,
            state.unit and state.unit.finalize(),
            state.top,
            atlas.rows,
            dc,
        )
        for site, state in states.items()
    }


def _put(acts: np.ndarray, mesh: Mesh | None) -> Array:
    if mesh is None or acts.shape[0] % mesh.shape["data"]:
        return jnp.asarray(acts)
    return jax.device_put(acts, NamedSharding(mesh, PartitionSpec("data")))


def _rows(value: Any) -> Rows:
    if isinstance(value, np.ndarray | jax.Array):
        return InMemory(np.asarray(value))
    if hasattr(value, "sites"):
        if len(value.sites) != 1:
            raise InputError(
                f"Expected one site, got a store with {', '.join(value.sites)}: pass store[site]."
            )
        return value[value.sites[0]]
    return value


def _check_methods(methods: Sequence[str]) -> None:
    if isinstance(methods, str):
        raise InputError(f"Expected a sequence of methods, got the string '{methods}'.")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(
            f"Expected methods among {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}."
        )


def _check_finite(parts: Mapping[str, np.ndarray], start: int) -> None:
    for name, values in parts.items():
        if not np.isfinite(np.sum(values, dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(values.astype(np.float32)).all(axis=1))
            raise InputError(
                f"Expected finite activations, row {start + int(bad[0])} of {name or 'the subject'}"
                " has NaN or infinity."
            )


def _same_texts(subject: Rows, atlas: Rows) -> None:
    mine, other = (getattr(side, "meta", {}).get("texts") for side in (subject, atlas))
    if mine and other and mine != other:
        raise InputError(
            f"Expected both sides recorded on the same texts, got corpora {mine[:12]} and "
            f"{other[:12]}: capture both on one corpus."
        )


def _meta(subject: Rows, atlas: Rows, name: str) -> dict[str, Any]:
    def side(rows: Rows, name: str | None = None) -> dict[str, Any]:
        meta = getattr(rows, "meta", {})
        return {
            "model": meta.get("model"),
            "fingerprint": meta.get("fingerprint"),
            "site": getattr(rows, "site", name or None),
            "width": rows.shape[1],
        }

    meta = getattr(subject, "meta", {})
    return {
        "subject": side(subject, name),
        "atlas": side(atlas),
        "texts": meta.get("texts"),
        "pool": meta.get("pool"),
        "n": subject.shape[0],
    }
