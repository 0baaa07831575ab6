"""What one pass over the rows leaves: sums of both sides and of their products, in float64.

Sums are of raw rows, not centred: in float64 the mean can be taken out afterwards, and the moments
of two sets of rows are added. The accumulators (`host_sums`, `device_sums`) take float32 products
of shifted rows and undo the shift once. Matrices have atlas features as rows, so that a block of
atlas features is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.semantic_lens import TopSamples


@dataclass(frozen=True)
class Wanted:
    """Which sums to take.

    Attributes:
        cross: A_c' A_s.
        gram: A_c' A_c with products in `float32` or `float64`; empty: not at all. A pseudo-inverse
            divides by eigenvalues that a float32 product drowns in rounding.
        unit: the cross product of rows of unit length.
        unit_gram: the Gram matrix of atlas rows of unit length.
        top: how many of the most activating samples of each subject feature.
    """

    cross: bool = False
    gram: str = ""
    unit: bool = False
    unit_gram: bool = False
    top: int = 0

    @property
    def raw(self) -> bool:
        """Whether rows are summed as they are: `total` and `squares` too."""
        return bool(self.cross or self.gram)

    @property
    def units(self) -> bool:
        """Whether rows of unit length are summed: `unit_total` too."""
        return bool(self.unit or self.unit_gram)

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(
            self.cross or other.cross,
            max(self.gram, other.gram),  # "" < "float32" < "float64"
            self.unit or other.unit,
            self.unit_gram or other.unit_gram,
            max(self.top, other.top),
        )


@dataclass
class AtlasMoments:
    """Sums over the atlas side, shared by all subject sites; vectors not needed are zero.

    Attributes:
        total: sum of A_c, (d_c,).
        squares: sum of A_c squared, (d_c,).
        unit_total: sum of the rows of unit length, (d_c,).
        gram: A_c' A_c, (c, d_c): the rows of this block of atlas features. The upper triangle
            alone holds; the rest of the matrix is its mirror image.
        unit_gram: the same of rows of unit length.
    """

    total: Float64[np.ndarray, " dc"]
    squares: Float64[np.ndarray, " dc"]
    unit_total: Float64[np.ndarray, " dc"]
    gram: Float64[np.ndarray, "c dc"] | None = None
    unit_gram: Float64[np.ndarray, "c dc"] | None = None


@dataclass
class SiteMoments:
    """Sums over one subject site.

    Attributes:
        total: sum of A_s, (d_s,).
        squares: sum of A_s squared, (d_s,).
        unit_total: sum of the rows of unit length, (d_s,).
        cross: A_c' A_s, (c, d_s), for this block of atlas features.
        unit: the same of rows of unit length.
        top: the samples that activate each feature most.
    """

    total: Float64[np.ndarray, " ds"]
    squares: Float64[np.ndarray, " ds"]
    unit_total: Float64[np.ndarray, " ds"]
    cross: Float64[np.ndarray, "c ds"] | None = None
    unit: Float64[np.ndarray, "c ds"] | None = None
    top: TopSamples | None = None


Side = TypeVar("Side", AtlasMoments, SiteMoments)


@dataclass
class Moments:
    """The sums of n rows.

    Attributes:
        n: number of rows.
        atlas: of the atlas side.
        sites: of each subject site.
    """

    n: int
    atlas: AtlasMoments
    sites: Mapping[str, SiteMoments] = field(default_factory=dict)

    @classmethod
    def zeros(
        cls,
        widths: Mapping[str, int],
        atlas_width: int,
        wanted: Wanted,
        columns: tuple[int, int] | None = None,
    ) -> Moments:
        """The sums of no rows.

        Args:
            widths: d_s of each site.
            atlas_width: d_c.
            wanted: which sums.
            columns: the block of atlas features whose products are taken; default: all.
        """
        block = columns[1] - columns[0] if columns else atlas_width

        def matrix(width: int, asked: object) -> np.ndarray | None:
            return np.zeros((block, width)) if asked else None

        def vectors(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return np.zeros(width), np.zeros(width), np.zeros(width)

        return cls(
            0,
            AtlasMoments(
                *vectors(atlas_width),
                matrix(atlas_width, wanted.gram),
                matrix(atlas_width, wanted.unit_gram),
            ),
            {
                site: SiteMoments(
                    *vectors(width),
                    matrix(width, wanted.cross),
                    matrix(width, wanted.unit),
                    TopSamples.empty(width, wanted.top) if wanted.top else None,
                )
                for site, width in widths.items()
            },
        )

    def merge(self, other: Moments, after: bool = False) -> Moments:
        """The moments of the rows of both, which share no row.

        Args:
            other: with the same sites and sums.
            after: number the other's samples after this one's (two runs); else both number the
                samples of one run.
        """
        if self.sites.keys() != other.sites.keys():
            raise InputError(
                f"Expected moments of the sites {', '.join(self.sites)}, got "
                f"{', '.join(other.sites)}."
            )
        shift = self.n if after else 0
        sites = {}
        for site, mine in self.sites.items():
            theirs = other.sites[site]
            top = mine.top
            if top is not None and theirs.top is not None:
                top = top.merge(theirs.top.shifted(shift))
            sites[site] = replace(_added(mine, theirs), top=top)
        return Moments(self.n + other.n, _added(self.atlas, other.atlas), sites)


class SitesOnDemand(Mapping[str, SiteMoments]):
    """Sites whose moments are made when asked for; the last one asked for is kept.

    Args:
        names: of the sites.
        make: the moments of one.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], SiteMoments]) -> None:
        self._names, self._make = tuple(names), make
        self._last: tuple[str, SiteMoments] | None = None

    def __getitem__(self, site: str) -> SiteMoments:
        if self._last is None or self._last[0] != site:
            self._last = None  # makes room
            self._last = (site, self._make(site))
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _added(a: Side, b: Side) -> Side:
    """The matrices and vectors of both, added; those that one lacks are left out."""
    arrays = {
        name: value + getattr(b, name)
        for name, value in vars(a).items()
        if isinstance(value, np.ndarray) and getattr(b, name) is not None
    }
    return type(a)(**arrays)


def check_pair(subject: tuple[int, ...], atlas: tuple[int, ...]) -> None:
    """Both sides must be matrices with the same samples as rows.

    Raises:
        InputError: they are not.
    """
    if len(subject) != 2 or len(atlas) != 2 or subject[0] != atlas[0]:
        raise InputError(
            "Expected two matrices with the same samples as rows, (N, d_s) and (N, d_c), got "
            f"{tuple(subject)} and {tuple(atlas)}."
        )
    if not subject[0]:
        raise InputError("Expected at least one sample, got none.")
    if not subject[1] or not atlas[1]:
        raise InputError(
            f"Expected at least one feature on each side, got {subject[1]} of the subject and "
            f"{atlas[1]} of the atlas."
        )
