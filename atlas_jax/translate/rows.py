"""Where the rows come from: recorded sites or matrices, of the same samples on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.translate.moments import check_pair

T = TypeVar("T")
_SPARSE_READ = 4
LARGEST = 1e16
"""A row of 2^20 such values has a length that float32 can hold."""


class Rows(Protocol):
    """Rows of activations: a `SiteArray`, or a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Inputs(Protocol):
    """Rows of both sides, read together.

    Attributes:
        n: number of samples.
        widths: d_s of each subject site.
        atlas_width: d_c.
    """

    @property
    def n(self) -> int: ...

    @property
    def widths(self) -> dict[str, int]: ...

    @property
    def atlas_width(self) -> int: ...

    def read(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The rows from `start` to `stop`: by subject site, and of the atlas."""
        ...

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Some atlas rows, in rising order."""
        ...

    def about(self) -> dict[str, Any]:
        """What identifies the rows: models, fingerprints, texts, pooling."""
        ...


class StoredInputs:
    """Rows that are recorded, or in memory.

    Args:
        subjects: by site.
        atlas: of the same samples.

    Raises:
        InputError: no site, or sides of unlike samples.
    """

    def __init__(self, subjects: Mapping[str, Rows], atlas: Rows) -> None:
        if not subjects:
            raise InputError("Expected at least one subject site, got none.")
        for rows in subjects.values():
            check_pair(rows.shape, atlas.shape)
            _same_texts(rows, atlas)
        self.subjects, self.atlas = dict(subjects), atlas
        self.n, self.atlas_width = int(atlas.shape[0]), int(atlas.shape[1])
        self.widths = {site: int(rows.shape[1]) for site, rows in subjects.items()}

    def read(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The rows from `start` to `stop`."""
        subjects = {site: np.asarray(rows[start:stop]) for site, rows in self.subjects.items()}
        return subjects, np.asarray(self.atlas[start:stop])

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Some atlas rows, in rising order."""
        return gather_rows(self.atlas, indices)

    def about(self) -> dict[str, Any]:
        """What identifies the rows."""
        first = next(iter(self.subjects.values()))
        meta = getattr(first, "meta", {})
        subjects = {site: _side(rows, site) for site, rows in self.subjects.items()}
        return {
            "subjects": subjects,
            "atlas": _side(self.atlas),
            "texts": meta.get("texts"),
            "pool": meta.get("pool"),
            "n": self.n,
        }


def gather_rows(rows: Rows, indices: np.ndarray) -> np.ndarray:
    """Some rows, in rising order: picked where they are few, cut from a slice where many."""
    first, last = int(indices[0]), int(indices[-1]) + 1
    if isinstance(rows, np.ndarray) or last - first > _SPARSE_READ * len(indices):
        pick: Callable[[np.ndarray], np.ndarray] = getattr(rows, "rows", None) or rows.__getitem__  # type: ignore[assignment]
        return np.asarray(pick(indices))
    return np.asarray(rows[first:last])[indices - first]


def as_rows(value: Any) -> Rows:
    """A site, a matrix, or the only site of a store, as `Rows`."""
    if isinstance(value, jax.Array):
        return np.asarray(value)
    if hasattr(value, "sites"):
        if len(value.sites) != 1:
            raise InputError(
                f"Expected one site, got a store with {', '.join(value.sites)}: pass store[site]."
            )
        return value[value.sites[0]]
    return value


def read_ahead(task: Callable[[int], T], starts: range) -> Iterator[T]:
    """task(start) for each start, one of them always under way while the last is used."""
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for start in starts:
            following = reader.submit(task, start)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def check_finite(parts: Mapping[str, np.ndarray], start: int) -> None:
    """Refuses NaN, infinity, and values whose products float32 cannot hold, naming the row."""
    for name, values in parts.items():
        if np.isfinite(_squares(values)):
            continue
        for what, held in (
            ("finite activations", np.isfinite(values)),
            (f"activations below {LARGEST:g} in size", np.abs(values) <= LARGEST),
        ):
            bad = np.flatnonzero(~held.all(axis=1))
            if bad.size:
                column = int(np.flatnonzero(~held[bad[0]])[0])
                raise InputError(
                    f"Expected {what}, row {start + int(bad[0])} of {name or 'the subject'} has "
                    f"{values[bad[0], column]} at feature {column}: capture it again without that "
                    "text, or in another dtype."
                )


def _squares(values: np.ndarray) -> float:
    """A sum of squares in float32: not finite if a value is not, or is too large to multiply."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype == np.float32 and values.flags.c_contiguous:
            return float(np.vdot(values, values))
        return float(np.einsum("ij,ij->", values, values, dtype=np.float32, casting="unsafe"))


def _same_texts(subject: Rows, atlas: Rows) -> None:
    mine, other = (getattr(side, "meta", {}).get("texts") for side in (subject, atlas))
    if mine and other and mine != other:
        raise InputError(
            f"Expected both sides recorded on the same texts, got corpora {mine[:12]} and "
            f"{other[:12]}: capture both on one corpus."
        )


def _side(rows: Rows, name: str | None = None) -> dict[str, Any]:
    meta = getattr(rows, "meta", None)
    side = {
        "model": (meta or {}).get("model"),
        "fingerprint": (meta or {}).get("fingerprint"),
        "site": getattr(rows, "site", name or None),
        "width": int(rows.shape[1]),
    }
    if meta is None:  # a matrix is known by its first and last rows
        ends = np.ascontiguousarray(np.concatenate([rows[:8], rows[-8:]]))
        side["fingerprint"] = hashlib.sha256(ends.tobytes()).hexdigest()[:32]
    return side
