"""The translation methods by name: which sums each needs, and how T comes out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jax.sharding import Mesh

from atlas_jax.errors import InputError
from atlas_jax.translate.linear import (
    Gram,
    correlation,
    covariance,
    linear_regression,
    ridge,
)
from atlas_jax.translate.moments import Moments, SiteMoments, Wanted
from atlas_jax.translate.polar import POLAR, Polar
from atlas_jax.translate.polar_iteration import PRECISIONS
from atlas_jax.translate.procrustes import procrustes, unit_cross
from atlas_jax.translate.procrustes_exact import procrustes_exact
from atlas_jax.translate.ridge_path import Fold, gcv_errors, k_fold_errors
from atlas_jax.translate.semantic_lens import Gather, semantic_lens

CHOICES = ("gcv", "kfold")
_WEAK = 1e-3
"""Penalty below which the rounding of a float32 Gram matrix shows in ridge."""


@dataclass(frozen=True)
class Options:
    """Settings of the methods.

    Attributes:
        alpha: of ridge, relative to the mean of the Gram's diagonal; or `gcv` or `kfold`, which
            choose it among `alphas`.
        alphas: the penalties to choose among, relative too.
        folds: of `kfold`: contiguous, and each holds sums of its own.
        per_target: choose a penalty for each subject feature rather than one for all.
        k: samples of Semantic Lens.
        rcond: rank cut of Procrustes.
        polar: method of the polar factor.
        precision: of the products of `polar_express`.
        center: Procrustes takes out the mean of the rows of unit length.
        steps: of `procrustes_exact`, at most.
    """

    alpha: float | str = 1.0
    alphas: tuple[float, ...] = tuple(10.0**x for x in range(-5, 3))
    folds: int = 5
    per_target: bool = False
    k: int = 20
    rcond: float = 3e-7
    polar: str = "auto"
    precision: str = "float32"
    center: bool = False
    steps: int = 200

    def __post_init__(self) -> None:
        for value, allowed, what in (
            (self.polar, POLAR, "polar method"),
            (self.precision, PRECISIONS, "precision"),
        ):
            if value not in allowed:
                raise InputError(f"Expected the {what} {', '.join(allowed)}, got '{value}'.")
        if isinstance(self.alpha, str) and self.alpha not in CHOICES:
            raise InputError(
                f"Expected alpha as a number, {' or '.join(CHOICES)}, got '{self.alpha}'."
            )
        if not isinstance(self.alpha, str) and not 0 <= self.alpha < np.inf:
            raise InputError(f"Expected alpha >= 0, got {self.alpha}.")
        if self.k < 1:
            raise InputError(f"Expected k of at least 1, got {self.k}.")


DEFAULTS = Options()


@dataclass
class Sums:
    """The finished sums, and what several methods or sites share of their factors."""

    moments: Moments
    folds: Sequence[Moments]
    gather: Gather
    width: int
    mesh: Mesh | None = None
    _closed: dict[tuple[str, Options], Polar] = field(default_factory=dict)

    @cached_property
    def gram(self) -> Gram:
        """C with its factors."""
        assert self.moments.atlas.gram is not None
        return Gram(self.moments.atlas.gram)

    def closed(self, site: str, options: Options) -> Polar:
        """The closed form of Procrustes at a site."""
        if (site, options) not in self._closed:
            matrix = self.unit_cross(site, options)
            self._closed[site, options] = procrustes(
                matrix, options.polar, options.rcond, options.precision, self.mesh
            )
        return self._closed[site, options]

    def forget(self, site: str) -> None:
        """Lets go of what only this site's methods share."""
        self._closed = {key: value for key, value in self._closed.items() if key[0] != site}

    def unit_cross(self, site: str, options: Options) -> np.ndarray:
        """M of Procrustes."""
        moments = self.moments
        return unit_cross(moments.n, moments.sites[site], moments.atlas, options.center)


Solution = tuple[np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """A translation method.

    Attributes:
        needs: the sums that it takes under some options.
        solve: from the sums of a site to T (d_s, d_c) and what its header says.
    """

    needs: Callable[[Options], Wanted]
    solve: Callable[[Sums, str, Options], Solution]


def _covariance(sums: Sums, site: str, options: Options) -> Solution:
    moments = sums.moments
    return covariance(moments.n, moments.sites[site], moments.atlas), {}


def _correlation(sums: Sums, site: str, options: Options) -> Solution:
    moments = sums.moments
    return correlation(moments.n, moments.sites[site], moments.atlas), {}


def _cross(moments: SiteMoments) -> np.ndarray:
    assert moments.cross is not None
    return moments.cross


def _linear_regression(sums: Sums, site: str, options: Options) -> Solution:
    result = linear_regression(_cross(sums.moments.sites[site]), sums.gram)
    return result, {"rank": sums.gram.rank}


def _ridge(sums: Sums, site: str, options: Options) -> Solution:
    cross = _cross(sums.moments.sites[site])
    if not isinstance(options.alpha, str):
        alpha = options.alpha * sums.gram.scale
        return ridge(cross, sums.gram, alpha), {"alpha": alpha}
    if not sums.gram.live.size:  # an atlas of zeros predicts nothing, whatever the penalty
        return np.zeros(cross.shape[::-1]), {"alpha": 0.0, "chosen_by": options.alpha}
    alphas = [alpha * sums.gram.scale for alpha in options.alphas]
    errors = _errors(sums, site, options, alphas)
    chosen = np.asarray(alphas)[errors.argmin(axis=0)]
    about: dict[str, Any] = {
        "alpha": chosen.tolist() if options.per_target else float(chosen[0]),
        "chosen_by": options.alpha,
        "alphas": alphas,
        "errors": errors.mean(axis=1).tolist(),
    }
    result = np.zeros(cross.shape[::-1])
    for alpha in np.unique(chosen):
        rows = chosen == alpha if options.per_target else slice(None)
        result[rows] = ridge(cross[:, rows], sums.gram, float(alpha))
    return result, about


def _errors(sums: Sums, site: str, options: Options, alphas: list[float]) -> np.ndarray:
    """By alpha, and by subject feature or for all: (a, d_s) or (a, 1)."""
    moments = sums.moments
    if options.alpha == "gcv":
        here = moments.sites[site]
        errors = gcv_errors(sums.gram, _cross(here), here.squares, moments.n, alphas)
        return errors if options.per_target else errors.mean(axis=1, keepdims=True)
    folds = []
    for part in sums.folds:
        assert part.atlas.gram is not None
        here = part.sites[site]
        folds.append(Fold(part.n, part.atlas.gram, _cross(here), here.squares))
    return k_fold_errors(folds, alphas, options.per_target)


def _procrustes(sums: Sums, site: str, options: Options) -> Solution:
    result = sums.closed(site, options)
    rows, columns = result.factor.shape
    return result.factor, {
        "rank": result.rank,
        "residual": result.residual,
        "polar": result.method,
        "rcond": options.rcond,
        "center": options.center,
        "constraint": "T T' = I" if rows <= columns else "T' T = I",
    }


def _procrustes_exact(sums: Sums, site: str, options: Options) -> Solution:
    unit_gram = sums.moments.atlas.unit_gram
    assert unit_gram is not None
    result = procrustes_exact(
        sums.unit_cross(site, options),
        unit_gram if not options.center else _centred(sums.moments, unit_gram),
        _energy(sums.moments, site, options),
        sums.closed(site, options),
        options.steps,
    )
    closed, exact = result.objective
    return result.factor, {
        "rank": result.rank,
        "rcond": options.rcond,
        "center": options.center,
        "objective": exact,
        "objective_closed_form": closed,
        "steps": result.steps,
    }


def _centred(moments: Moments, unit_gram: np.ndarray) -> np.ndarray:
    total = moments.atlas.unit_total
    return unit_gram - np.outer(total, total / moments.n)


def _energy(moments: Moments, site: str, options: Options) -> float:
    """||A_s^||^2: a row of unit length each, but for rows of zeros."""
    total = moments.sites[site].unit_total
    mean = float(total @ total) / moments.n if options.center else 0.0
    return moments.n - mean


def _semantic_lens(sums: Sums, site: str, options: Options) -> Solution:
    top = sums.moments.sites[site].top
    assert top is not None
    return semantic_lens(top, sums.gather, sums.width), {"k": top.values.shape[1]}


def _regression(options: Options) -> Wanted:
    return Wanted(cross=True, gram="float64")


def _penalised(options: Options) -> Wanted:
    exact = isinstance(options.alpha, str) or options.alpha < _WEAK
    return Wanted(cross=True, gram="float64" if exact else "float32")


METHODS: dict[str, Method] = {
    "covariance": Method(lambda options: Wanted(cross=True), _covariance),
    "correlation": Method(lambda options: Wanted(cross=True), _correlation),
    "linear_regression": Method(_regression, _linear_regression),
    "ridge": Method(_penalised, _ridge),
    "procrustes": Method(lambda options: Wanted(unit=True), _procrustes),
    "procrustes_exact": Method(
        lambda options: Wanted(unit=True, unit_gram=True), _procrustes_exact
    ),
    "semantic_lens": Method(lambda options: Wanted(top=options.k), _semantic_lens),
}
"""The translation methods by name."""


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods, each once.

    Raises:
        InputError: an unknown one, or none.
    """
    if isinstance(methods, str):
        raise InputError(f"Expected a sequence of methods, got the string '{methods}'.")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(
            f"Expected methods among {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}."
        )
    return tuple(dict.fromkeys(methods))


def wanted(methods: Sequence[str], options: Options) -> Wanted:
    """The sums that the methods need together."""
    asked = Wanted()
    for name in methods:
        asked |= METHODS[name].needs(options)
    return asked


def needs_folds(methods: Sequence[str], options: Options) -> bool:
    """Whether sums of each fold are needed."""
    return "ridge" in methods and options.alpha == "kfold"
