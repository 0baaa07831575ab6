"""A query: a concept in the coordinates of an atlas."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from atlas_jax.errors import InputError
from atlas_jax.files import sealed, unsealed, write_json
from atlas_jax.outside import read_json, refusing

_FORMAT = "atlas-jax query 1"
_SHOWN = 8
_MOST = 1 << 24


@dataclass(frozen=True, eq=False)
class Query:
    """A concept q in atlas coordinates (eq. 2).

    Queries of one atlas add up, and numbers scale them: `dogs + 0.5 * cats - ships`.

    Attributes:
        vector: q, (d_c,), float32.
        name: what the user asked for, in words.
        features: the atlas features that it is made of, most important first.
        weights: of those features, in their order.
        descriptions: of those features, where known.
        atlas: names the features that the vector is written in; "" where unknown.

    Raises:
        InputError: a vector that is zero or not finite, which no direction can be read from.
    """

    vector: Float[Array, " d_c"] | Float[np.ndarray, " d_c"]
    name: str
    features: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    descriptions: tuple[str, ...] = ()
    atlas: str = ""

    def __post_init__(self) -> None:
        values = np.asarray(self.vector)
        if not np.isfinite(values).all():
            raise InputError(f"Expected a finite query vector for '{self.name}', got NaN or inf.")
        if not values.any():
            raise InputError(
                f"The query '{self.name}' is zero in every feature, so it has no direction: use "
                "other features, weights or texts."
            )
        if len(self.features) != len(self.weights):
            raise InputError(
                f"Expected one weight for each of {len(self.features)} features, got "
                f"{len(self.weights)}."
            )

    def __repr__(self) -> str:
        """What it consists of, a line for each feature."""
        active, total = np.count_nonzero(self.vector), len(self.vector)
        lines = [f"Query({self.name!r}, {active} of {total} features)"]
        texts = self.descriptions or ("",) * len(self.features)
        for feature, weight, text in list(zip(self.features, self.weights, texts, strict=True))[
            :_SHOWN
        ]:
            lines.append(f"  {weight:+8.3f}  {feature:>7}  {text}".rstrip())
        if active > min(_SHOWN, len(self.features)):
            lines.append(f"  and {active - min(_SHOWN, len(self.features))} more")
        return "\n".join(lines)

    def __add__(self, other: Query) -> Query:
        """Both concepts at once.

        Raises:
            InputError: queries of two atlases, or two that cancel out.
        """
        if not isinstance(other, Query):
            return NotImplemented
        other.check(self.atlas, len(self.vector))
        vector = np.asarray(self.vector) + np.asarray(other.vector)
        texts = dict(zip(other.features, other.descriptions or other._blank(), strict=True))
        texts |= dict(zip(self.features, self.descriptions or self._blank(), strict=True))
        kept = sorted(texts, key=lambda feature: -abs(float(vector[feature])))
        kept = [feature for feature in kept if vector[feature] != 0]
        second = other.name.removeprefix("-")
        sign = "-" if second != other.name else "+"
        return Query(
            vector,
            f"{self.name} {sign} {second}",
            tuple(kept),
            tuple(float(vector[feature]) for feature in kept),
            tuple(texts[feature] for feature in kept),
            self.atlas or other.atlas,
        )

    def __mul__(self, factor: float | np.number) -> Query:
        """The same concept with another weight."""
        if isinstance(factor, bool) or not isinstance(factor, int | float | np.number):
            return NotImplemented
        factor = float(factor)
        name = self.name if " + " not in self.name and " - " not in self.name else f"({self.name})"
        name = {1.0: self.name, -1.0: f"-{name}"}.get(factor, f"{factor:g} {name}")
        return replace(
            self,
            vector=np.asarray(self.vector) * np.float32(factor),
            name=name,
            weights=tuple(weight * factor for weight in self.weights),
        )

    __rmul__ = __mul__

    def __neg__(self) -> Query:
        return self * -1.0

    def __sub__(self, other: Query) -> Query:
        return self + -other if isinstance(other, Query) else NotImplemented

    def _blank(self) -> tuple[str, ...]:
        return ("",) * len(self.features)

    def check(self, atlas: str, width: int) -> Query:
        """This query, if it is one of that atlas.

        Args:
            atlas: its identity; "" where unknown.
            width: its number of features.

        Raises:
            InputError: a query of another atlas.
        """
        if len(self.vector) != width:
            raise InputError(
                f"Expected a query of {width} atlas features, got '{self.name}' of "
                f"{len(self.vector)}. Was it made with another atlas?"
            )
        if atlas and self.atlas and atlas != self.atlas:
            raise InputError(
                f"Expected a query of the same atlas, got '{self.name}', made with another one of "
                f"{width} features. Make it again with this atlas."
            )
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes JSON, under its final name only when whole."""
        path = Path(path)
        vector = np.asarray(self.vector)
        active = np.flatnonzero(vector)
        content = {
            "format": _FORMAT,
            "name": self.name,
            "atlas": self.atlas,
            "n_features": len(vector),
            "features": list(self.features),
            "descriptions": list(self.descriptions),
            "weights": list(self.weights),
            "vector": {str(i): float(vector[i]) for i in active},
        }
        return write_json(path, sealed(content))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Query:
        """Reads what `save` wrote; `Atlas.load_query` also checks whose it is.

        Raises:
            InputError: no such file, or something else in it.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise InputError(f"Expected a query at {path}, there is no such file.")
        content: Any = None
        with suppress(InputError):
            content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InputError(f"Expected a file of format '{_FORMAT}' at {path}, got another.")
        with refusing(f"the query at {path}", "It is damaged: make it again"):
            content = unsealed(content)
            count = content["n_features"]
            if type(count) is not int or not 0 < count <= _MOST:
                raise ValueError(f"expected n_features from 1 to {_MOST}")
            places = [int(index) for index in content["vector"]]
            named = content["features"]
            if not all(type(f) is int and 0 <= f < count for f in (*places, *named)):
                raise ValueError(f"expected features from 0 to {count - 1}")
            vector = np.zeros(count, np.float32)
            vector[places] = np.array([float(v) for v in content["vector"].values()], np.float32)
            parts = (
                str(content["name"]),
                tuple(named),
                tuple(float(w) for w in content["weights"]),
                tuple(str(t) for t in content["descriptions"]),
                str(content["atlas"]),
            )
            if parts[3] and len(parts[3]) != len(parts[1]):
                raise ValueError(f"expected a description for each of {len(parts[1])} features")
            return cls(vector, *parts)
