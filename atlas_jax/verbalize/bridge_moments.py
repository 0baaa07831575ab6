"""Moments of pairs, in parts by document: what a bridge is solved from, saved, merged, refitted.

Rows are taken less a pilot mean (of the first block), so that a mean of 1e7 standard deviations
costs no precision; sums are float64. Parts 2k and 2k + 1 are fold k, and the parts of even and of
odd number are the two halves that a split-half reliability compares.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing
from atlas_jax.translate.device_sums import DeviceSums
from atlas_jax.translate.host_sums import HostSums
from atlas_jax.translate.moments import AtlasMoments, Moments, SiteMoments, Wanted

if TYPE_CHECKING:
    from atlas_jax.verbalize.washout import Background

_FORMAT = "atlas-jax bridge moments 1"
_TARGET = "target"
_WANTED = Wanted(cross=True, gram="float64")
_BUFFER = 2048
_ARRAYS = ("total_x", "total_y", "xx", "xy", "yy")


@dataclass
class Sums:
    """Sums over n pairs of rows less the pilot means.

    Attributes:
        n: pairs.
        total_x: sum of x, (p,).
        total_y: sum of y, (q,).
        xx: sum of x x', (p, p); the upper triangle alone holds.
        xy: sum of x y', (p, q).
        yy: sum of y squared, (q,).
    """

    n: int
    total_x: Float64[np.ndarray, " p"]
    total_y: Float64[np.ndarray, " q"]
    xx: Float64[np.ndarray, "p p"]
    xy: Float64[np.ndarray, "p q"]
    yy: Float64[np.ndarray, " q"]

    @classmethod
    def of(cls, moments: Moments) -> Sums:
        """The moments of `translate`, whose atlas is the source here."""
        site, atlas = moments.sites[_TARGET], moments.atlas
        assert site.cross is not None and atlas.gram is not None
        return cls(moments.n, atlas.total, site.total, atlas.gram, site.cross, site.squares)

    @classmethod
    def zeros(cls, p: int, q: int) -> Sums:
        """The sums of no pairs."""
        return cls(0, np.zeros(p), np.zeros(q), np.zeros((p, p)), np.zeros((p, q)), np.zeros(q))

    def __add__(self, other: Sums) -> Sums:
        more = {name: getattr(self, name) + getattr(other, name) for name in _ARRAYS}
        return Sums(self.n + other.n, **more)

    def __sub__(self, other: Sums) -> Sums:
        less = {name: getattr(self, name) - getattr(other, name) for name in _ARRAYS}
        return Sums(self.n - other.n, **less)

    def moved(self, by_x: np.ndarray, by_y: np.ndarray) -> Sums:
        """The sums of rows x + by_x and y + by_y."""
        ones = self.n
        xx = self.xx + np.outer(self.total_x, by_x) + np.outer(by_x, self.total_x)
        xx += ones * np.outer(by_x, by_x)
        xy = self.xy + np.outer(self.total_x, by_y) + np.outer(by_x, self.total_y)
        xy += ones * np.outer(by_x, by_y)
        yy = self.yy + by_y * (2 * self.total_y + ones * by_y)
        return Sums(ones, self.total_x + ones * by_x, self.total_y + ones * by_y, xx, xy, yy)


@dataclass
class BridgeMoments:
    """The moments of a run.

    Attributes:
        pilot_x: what was taken from source rows, (p,).
        pilot_y: what was taken from target rows, (q,).
        parts: the sums of each part of the documents.
        held_x: source rows of documents that are in no part, (m, p).
        held_y: their target rows, (m, q).
        about: source, target, runs (the hash of each one's texts), pairing, rows, dropped.
    """

    pilot_x: Float64[np.ndarray, " p"]
    pilot_y: Float64[np.ndarray, " q"]
    parts: list[Sums]
    held_x: Float32[np.ndarray, "m p"]
    held_y: Float32[np.ndarray, "m q"]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Pairs, but for those held out."""
        return sum(part.n for part in self.parts)

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.parts) // 2

    def fold(self, index: int) -> Sums:
        """The sums of one fold."""
        return self.parts[2 * index] + self.parts[2 * index + 1]

    def whole(self, parts: Iterable[int] | None = None) -> Sums:
        """The sums of some parts; default: all."""
        chosen = range(len(self.parts)) if parts is None else parts
        total = Sums.zeros(len(self.pilot_x), len(self.pilot_y))
        for i in chosen:
            total.n += self.parts[i].n
            for name in _ARRAYS:
                getattr(total, name).__iadd__(getattr(self.parts[i], name))
        return total

    def background(self) -> Background:
        """The held-out target rows, as the background of a washout."""
        from atlas_jax.verbalize.washout import Background

        about = dict(self.about.get("target", {}))
        return Background(self.held_y, about | {"pairing": self.about.get("pairing")})

    def merge(self, other: BridgeMoments) -> BridgeMoments:
        """The moments of both runs' pairs.

        Raises:
            InputError: other models, sites, pairing or folds; or the same texts twice.
        """
        for key in ("source", "target", "pairing", "rows", "shuffled"):
            if self.about.get(key) != other.about.get(key):
                raise InputError(
                    f"Expected bridge moments of the same {key}, got {self.about.get(key)} and "
                    f"{other.about.get(key)}."
                )
        if len(self.parts) != len(other.parts):
            raise InputError(
                f"Expected as many folds on both sides, got {self.folds} and {other.folds}."
            )
        runs = [*self.about.get("runs", []), *other.about.get("runs", [])]
        if len(set(runs)) < len(runs):
            raise InputError(
                "Expected runs on different texts, got the same texts twice: their pairs would "
                "count double."
            )
        by_x, by_y = other.pilot_x - self.pilot_x, other.pilot_y - self.pilot_y
        parts = [a + b.moved(by_x, by_y) for a, b in zip(self.parts, other.parts, strict=True)]
        held_x, held_y = (
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("held_x", "held_y")
        )
        about = {**self.about, "runs": runs}
        return BridgeMoments(self.pilot_x, self.pilot_y, parts, held_x, held_y, about)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one safetensors file in one step."""
        tensors: dict[str, np.ndarray] = {
            name: getattr(self, name) for name in ("pilot_x", "pilot_y", "held_x", "held_y")
        }
        for i, part in enumerate(self.parts):
            tensors |= {f"part{i}.{name}": getattr(part, name) for name in _ARRAYS}
        header = json.dumps({"about": self.about, "n": [part.n for part in self.parts]})
        return write_tensors(path, tensors, {"format": _FORMAT, "header": header})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BridgeMoments:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, or not a whole one.
        """
        what, remedy = "file of moments", "read the pairs again"
        notes, tensors = read_tensors(path, what, remedy, _FORMAT, "header")
        with refusing(f"the {what} at {path}", f"It is damaged: {remedy}"):
            header = notes["header"]
            parts = [
                Sums(n, **{name: tensors[f"part{i}.{name}"] for name in _ARRAYS})
                for i, n in enumerate(header["n"])
            ]
            rest = {name: tensors[name] for name in ("pilot_x", "pilot_y", "held_x", "held_y")}
            made = cls(parts=parts, about=header["about"], **rest)
            made._check()
            return made

    def _check(self) -> None:
        """Refuses arrays that do not belong together."""
        p, q, m = len(self.pilot_x), len(self.pilot_y), len(self.held_x)
        shapes = {"total_x": (p,), "total_y": (q,), "xx": (p, p), "xy": (p, q), "yy": (q,)}
        for part in self.parts:
            for name, shape in shapes.items():
                if getattr(part, name).shape != shape or type(part.n) is not int or part.n < 0:
                    raise ValueError(f"{name} of {part.n} pairs is not of shape {shape}")
        if (self.held_x.shape, self.held_y.shape) != ((m, p), (m, q)) or len(self.parts) % 2:
            raise ValueError("its held-out rows or its parts do not belong together")
        if not isinstance(self.about, dict):
            raise ValueError("it does not say what it is about")


class PairSums:
    """Adds blocks of pairs to the part that each one's document belongs to.

    The part of a document is a hash of its name: the same whatever the order of the blocks. One
    document in `1 / held_share` is held out of all parts, until `held` pairs are there.

    Args:
        folds: of cross-validation.
        held: pairs to keep as rows, for measures that no moment gives.
        start: moments to go on from.
    """

    def __init__(self, folds: int, held: int = 1000, start: BridgeMoments | None = None) -> None:
        if folds < 2:
            raise InputError(f"Expected at least two folds, got {folds}.")
        self.count, self.held, self.state = 2 * folds, held, start
        self._waiting: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(self.count)]
        self._held: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        if start is not None:
            self._held[0].append(start.held_x)
            self._held[1].append(start.held_y)

    def add(
        self,
        source: Float[np.ndarray, "n p"],
        target: Float[np.ndarray, "n q"],
        documents: Int64[np.ndarray, " n"],
    ) -> None:
        """Adds a block."""
        if not len(source):
            return
        if self.state is None:
            pilot_x, pilot_y = (rows.astype(np.float64).mean(axis=0) for rows in (source, target))
            p, q = source.shape[1], target.shape[1]
            empty = [np.zeros((0, width), np.float32) for width in (p, q)]
            parts = [Sums.zeros(p, q) for _ in range(self.count)]
            self.state = BridgeMoments(pilot_x, pilot_y, parts, empty[0], empty[1])
            for rows, none in zip(self._held, empty, strict=True):
                rows.append(none)
        out = (documents // self.count) % _HELD_OUT_OF == 0
        room = self.held - sum(map(len, self._held[0]))
        if room > 0 and out.any():
            self._held[0].append(source[out][:room].astype(np.float32))
            self._held[1].append(target[out][:room].astype(np.float32))
        part = documents % self.count
        for index in np.unique(part[~out]):
            mine = ~out & (part == index)
            moved = (
                (rows[mine].astype(np.float64) - pilot).astype(np.float32)
                for rows, pilot in (
                    (source, self.state.pilot_x),
                    (target, self.state.pilot_y),
                )
            )
            x, y = moved
            self._waiting[index].append((x, y))
            if sum(len(rows) for rows, _ in self._waiting[index]) >= _BUFFER:
                self._flush(int(index))

    def moments(self, about: Mapping[str, Any] | None = None) -> BridgeMoments:
        """The sums so far.

        Raises:
            InputError: no pairs.
        """
        if self.state is None:
            raise InputError("Expected pairs, got none.")
        for index in range(self.count):
            self._flush(index)
        self.state.held_x, self.state.held_y = (np.concatenate(rows) for rows in self._held)
        self.state.about = dict(about or self.state.about)
        return self.state

    def _flush(self, index: int) -> None:
        if not self._waiting[index]:
            return
        assert self.state is not None
        x, y = (np.concatenate(rows) for rows in zip(*self._waiting[index], strict=True))
        self._waiting[index] = []
        part, widths = self.state.parts[index], {_TARGET: y.shape[1]}
        sums: HostSums | DeviceSums
        if jax.default_backend() == "cpu":
            start = _as_moments(part)
            sums = HostSums(widths, x.shape[1], _WANTED, layout="dense", start=start)
            sums.add({_TARGET: y}, sums.prepare(x), 0, len(x))
            self.state.parts[index] = Sums.of(sums.moments())
            sums.pool.shutdown()
        else:
            sums = DeviceSums(widths, x.shape[1], _WANTED, batch_rows=len(x))
            sums.add({_TARGET: y}, sums.prepare(x), 0, len(x))
            self.state.parts[index] = part + Sums.of(sums.moments())


_HELD_OUT_OF = 16


def _as_moments(part: Sums) -> Moments:
    """The same sums as `translate` holds them; the arrays are shared."""
    atlas = AtlasMoments(part.total_x, np.diag(part.xx).copy(), np.zeros(len(part.xx)), part.xx)
    site = SiteMoments(part.total_y, part.yy, np.zeros(len(part.yy)), part.xy)
    return Moments(part.n, atlas, {_TARGET: site})
