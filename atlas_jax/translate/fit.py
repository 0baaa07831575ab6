"""Fit translations: one pass over the rows, whatever methods and subject sites are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.progress import Bar
from atlas_jax.translate.accumulate import Plan, accumulate
from atlas_jax.translate.methods import (
    DEFAULTS,
    METHODS,
    Options,
    Sums,
    check_methods,
    needs_folds,
    wanted,
)
from atlas_jax.translate.moments import Wanted
from atlas_jax.translate.moments_file import MomentsFolder
from atlas_jax.translate.rows import Inputs, Rows, StoredInputs, as_rows, gather_rows
from atlas_jax.translate.translation import Translation


@overload
def fit(
    subject: Rows, atlas: Any, methods: Sequence[str] = ..., *, options: Options = ..., **how: Any
) -> dict[str, Translation]: ...
@overload
def fit(
    subject: Mapping[str, Any],
    atlas: Any,
    methods: Sequence[str] = ...,
    *,
    options: Options = ...,
    **how: Any,
) -> dict[str, dict[str, Translation]]: ...
def fit(
    subject: Any,
    atlas: Any,
    methods: Sequence[str] = ("procrustes",),
    *,
    options: Options = DEFAULTS,
    **how: Any,
) -> dict[str, Any]:
    """Fits translations from rows of activations of the same samples.

    Every row is read once for all methods and sites together; with `max_memory`, once for each
    block of atlas features. The result does not depend on how the rows are read and spread but for
    float32 rounding.

    Args:
        subject: (N, d_s): a site of a store, or a matrix; or a dict of those by site, which share
            the atlas side's work.
        atlas: (N, d_c): the same, or a store that has one site.
        methods: names among `METHODS`.
        options: settings of the methods.
        how: fields of `Plan`: batch_rows, mesh, layout, max_memory, moments, save_every, report.

    Returns:
        {method: Translation}, or {site: {method: Translation}} for a dict.

    Raises:
        InputError: an unknown method, sides with different samples, or values that are not finite.
    """
    check_methods(methods)
    several = isinstance(subject, Mapping)
    sides = {str(k): as_rows(v) for k, v in subject.items()} if several else {"": as_rows(subject)}
    results = collect(
        fit_inputs(StoredInputs(sides, as_rows(atlas)), methods, options, Plan(**how))
    )
    return results if several else results[""]


def fit_inputs(
    inputs: Inputs, methods: Sequence[str], options: Options, plan: Plan
) -> Iterator[tuple[str, Translation]]:
    """One translation after the other, with its site: the rows are read before the first."""
    methods = check_methods(methods)
    folds = options.folds if needs_folds(methods, options) else 0
    with accumulate(inputs, wanted(methods, options), folds, plan) as found:
        sums = Sums(found.moments, found.folds, inputs.gather, inputs.atlas_width, plan.mesh)
        yield from solve(sums, inputs.about(), methods, options, found.about)


def fit_moments(
    moments: str | Path,
    atlas: Sequence[Any] = (),
    methods: Sequence[str] = ("procrustes",),
    *,
    options: Options = DEFAULTS,
) -> dict[str, dict[str, Translation]]:
    """Fits from saved moments, of one run or merged.

    Args:
        moments: the folder.
        atlas: the atlas stores of the runs, for the rows that Semantic Lens averages.
        methods: among those whose sums were saved.
        options: settings of the methods; k and the folds are those of the saved sums.

    Raises:
        InputError: sums that were not saved, or a missing atlas store.
    """
    methods = check_methods(methods)
    folder = MomentsFolder(moments)
    header = folder.header()
    saved = Wanted(**header["wanted"])
    parts, _ = folder.parts()
    folds = [folder.whole(part) for part in parts if part != "all"]
    for name in methods:
        asked = METHODS[name].needs(options)
        regressions = Wanted(cross=True, gram=asked.gram) if folds else Wanted()
        if (saved | regressions | asked) != (saved | regressions) or (
            needs_folds([name], options) and not folds
        ):
            raise InputError(
                f"Expected moments that {name} needs at {folder.path}, got "
                f"{ {k: v for k, v in header['wanted'].items() if v} }: fit it from the rows with "
                "the same options."
            )
    runs = header["inputs"]
    whole = folder.whole()
    if folds:
        from atlas_jax.translate.accumulate import with_regression

        whole = with_regression(whole, folds)
    rows = _RunRows(runs, [as_rows(store) for store in atlas])
    sums = Sums(whole, folds, rows.gather, runs[0]["atlas"]["width"])
    about = runs[0] | {"n": sum(run["n"] for run in runs)}
    if len(runs) > 1:
        about["texts"] = [run["texts"] for run in runs]
    return collect(solve(sums, about, methods, options, {}))


def solve(
    sums: Sums,
    about: Mapping[str, Any],
    methods: Sequence[str],
    options: Options,
    accumulated: Mapping[str, Any],
) -> Iterator[tuple[str, Translation]]:
    """The translations of all sites and methods, one after the other."""
    sites = list(sums.moments.sites)
    shared = {key: about[key] for key in ("atlas", "texts", "pool", "n")}
    with Bar("solving", len(sites) * len(methods)) as bar:
        for site in sites:
            for name in methods:
                matrix, diagnostics = METHODS[name].solve(sums, site, options)
                meta = {
                    "subject": about["subjects"][site],
                    **shared,
                    "options": diagnostics,
                    "sums": dict(accumulated),
                }
                yield site, Translation(name, np.ascontiguousarray(matrix, np.float32), meta)
                bar.advance()
            sums.forget(site)


def collect(found: Iterator[tuple[str, Translation]]) -> dict[str, dict[str, Translation]]:
    """{site: {method: Translation}}."""
    results: dict[str, dict[str, Translation]] = {}
    for site, translation in found:
        results.setdefault(site, {})[translation.method] = translation
    return results


class _RunRows:
    """The atlas rows of merged runs, numbered one run after the other."""

    def __init__(self, runs: Sequence[Mapping[str, Any]], stores: Sequence[Rows]) -> None:
        self.runs, self.stores = runs, stores
        self.starts = np.concatenate([[0], np.cumsum([run["n"] for run in runs])])

    def gather(self, indices: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        parts = [
            gather_rows(self._store(int(i)), indices[owner == i] - self.starts[i])
            for i in np.unique(owner)
        ]
        return np.concatenate(parts)

    def _store(self, index: int) -> Rows:
        run = self.runs[index]
        for i, store in enumerate(self.stores):
            texts = getattr(store, "meta", {}).get("texts")
            known = texts == run["texts"] if texts else i == index
            if known and tuple(store.shape) == (run["n"], run["atlas"]["width"]):
                return store
        raise InputError(
            f"Expected the atlas store of each run, found none with {run['n']} rows on the texts "
            f"{str(run['texts'])[:12]}: pass it with atlas=[...]."
        )
