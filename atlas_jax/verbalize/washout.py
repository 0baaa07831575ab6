"""Background washout: making a bare direction look like what a verbalizer was trained on.

A. Mixing at an angle: v = cos(theta) b^ + sin(theta) unit(u - (u.b^) b^), b^ the direction of the
   mean unit activation of the target's site. The default angle is the natural one,
   arccos ||mean unit row||; 90 degrees takes the background out of the direction altogether.
B. Subtracting logits: log p(y | v) - omega log p(y | b^) on plausible tokens. What a verbalizer
   says whatever it reads, q of l(v) = g(v) + q, is left (1 - omega) times.
C. A paired ensemble: mean_i log p(y | h_i turned towards u) - omega mean_i log p(y | h_i) over N
   activations h_i: what their contexts bring in cancels.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing

_FORMAT = "atlas-jax background 1"
_PARALLEL = 0.99


@dataclass(frozen=True)
class Washout:
    """What is done to a direction before a verbalizer reads it.

    Attributes:
        angle: degrees between the background and what goes in; `auto`: the natural one; None: the
            bare direction.
        weight: instead of an angle, (1 - weight) b^ + weight u: another angle for each direction.
        omega: of B and C.
        alpha: of the plausibility mask of B and C.
        members: activations of C; 0: none.
        against: what B subtracts: `background`, or `random`: the mean over directions drawn at the
            same angle.
        seed: of the members and of the random directions.
    """

    angle: float | str | None = "auto"
    weight: float | None = None
    omega: float = 0.0
    alpha: float = 0.1
    members: int = 0
    against: str = "background"
    seed: int = 0

    def __post_init__(self) -> None:
        angle = self.angle
        if isinstance(angle, str) and angle != "auto":
            raise InputError(f"Expected an angle in degrees, auto or None, got '{angle}'.")
        if isinstance(angle, int | float) and not 0 <= angle <= 90:
            raise InputError(f"Expected an angle from 0 to 90 degrees, got {angle}.")
        if not 0 <= self.omega <= 1 or not 0 < self.alpha < 1 or self.members < 0:
            raise InputError(
                "Expected omega from 0 to 1, alpha between 0 and 1 and members of at least 0, got "
                f"{self.omega}, {self.alpha} and {self.members}."
            )
        if self.weight is not None and not 0 < self.weight <= 1:
            raise InputError(f"Expected a weight above 0 and up to 1, got {self.weight}.")
        if self.against not in ("background", "random"):
            raise InputError(f"Expected against background or random, got '{self.against}'.")

    @property
    def needs_background(self) -> bool:
        """Whether a background must be there."""
        bare = self.angle is None and self.weight is None
        return not bare or self.omega > 0 or self.members > 0


BARE = Washout(angle=None)
_RANDOM = 8


@dataclass(frozen=True)
class Background:
    """Activations of the target model at the verbalizer's site.

    Attributes:
        rows: (m, d).
        meta: model, site, texts.
    """

    rows: Float[np.ndarray, "m d"]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        norms = np.linalg.norm(self.rows.astype(np.float64), axis=1)
        if len(self.rows) < 2 or not np.isfinite(norms).all() or not norms.all():
            raise InputError("Expected at least two rows of a background, finite and not zero.")

    @property
    def units(self) -> Float64[np.ndarray, "m d"]:
        """Rows of unit length."""
        return unit(self.rows.astype(np.float64))

    @property
    def mean(self) -> Float64[np.ndarray, " d"]:
        """b, the mean of unit rows."""
        return self.units.mean(axis=0)

    @property
    def direction(self) -> Float64[np.ndarray, " d"]:
        """b^, of unit length."""
        return unit(self.mean[None])[0]

    @property
    def angle(self) -> float:
        """The natural angle in degrees: arccos ||b||."""
        return math.degrees(math.acos(min(1.0, float(np.linalg.norm(self.mean)))))

    @property
    def length(self) -> float:
        """The median norm of rows."""
        return float(np.median(np.linalg.norm(self.rows.astype(np.float64), axis=1)))

    def about(self) -> dict[str, float]:
        """For the record: natural angle, median norm, and the cosine of b^ with the mean of rows
        as they are, which differs where norms vary."""
        raw = self.rows.astype(np.float64).mean(axis=0)
        cosine = float(unit(raw[None])[0] @ self.direction)
        return {"angle": self.angle, "median_norm": self.length, "cosine_to_raw_mean": cosine}

    def members(self, count: int, seed: int) -> Float64[np.ndarray, "n d"]:
        """Some rows, of unit length: the same ones for every direction."""
        if count > len(self.rows):
            raise InputError(
                f"Expected at most {len(self.rows)} members (rows of the background), got {count}."
            )
        rng = np.random.default_rng(seed)
        return self.units[np.sort(rng.choice(len(self.rows), count, replace=False))]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a safetensors file in one step."""
        notes = {"format": _FORMAT, "header": json.dumps(self.meta)}
        return write_tensors(path, {"rows": np.asarray(self.rows, np.float32)}, notes)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Background:
        """Reads what `save` wrote."""
        notes, tensors = read_tensors(
            path, "background", "record it again", _FORMAT, "header", ("rows",)
        )
        with refusing(f"the background at {path}", "Record it again"):
            rows, meta = tensors["rows"], notes["header"]
            if rows.ndim != 2 or rows.dtype.kind != "f" or not isinstance(meta, dict):
                raise ValueError(f"its rows are of shape {rows.shape} and {rows.dtype}")
            return cls(rows, meta)


def record_background(
    model: Any, site: str, texts: Sequence[str], rows: int = 512, min_left: int = 50, seed: int = 0
) -> Background:
    """Activations at one token of each text, drawn among those with enough to their left.

    Raises:
        InputError: no text is long enough.
    """
    from atlas_jax.verbalize.pairs import encode, text_key
    from atlas_jax.verbalize.reading import ModelSide

    side = ModelSide(model, site)
    chosen, at = [], []
    for start in range(0, len(texts), 256):
        some = [str(texts[i]) for i in range(start, min(start + 256, len(texts)))]
        for text, tokens in zip(some, encode(side.tokenizer, some, 512), strict=True):
            if tokens is None:
                continue
            there = np.flatnonzero(~tokens.special)
            there = there[there >= min_left]
            if len(there):
                draw = np.random.default_rng([seed, text_key(text)])
                chosen.append(tokens)
                at.append(np.array([draw.choice(there)]))
        if len(chosen) >= rows:
            break
    if len(chosen) < 2:
        raise InputError(
            f"Expected texts with more than {min_left} tokens for a background, got "
            f"{len(chosen)}: give longer ones, or a smaller min_left."
        )
    found = side.rows(list(range(len(chosen))), chosen, at)
    norms = np.linalg.norm(found, axis=1)
    found = found[norms <= 10 * np.median(norms)][:rows]
    return Background(found, side.about() | {"min_left": min_left})


def mix_at_angle(
    directions: Float[np.ndarray, "n d"], background: Float[np.ndarray, " d"], degrees: float
) -> Float64[np.ndarray, "n d"]:
    """cos(theta) b^ + sin(theta) unit(u - (u.b^) b^): exactly this angle to b^ for every u.

    Raises:
        InputError: a direction that is the background itself.
    """
    base = unit(np.asarray(background, np.float64)[None])[0]
    u = unit(directions.astype(np.float64))
    inner = u @ base
    if (np.abs(inner) > _PARALLEL).any():
        worst = int(np.argmax(np.abs(inner)))
        raise InputError(
            f"Expected directions apart from the background, number {worst} has cosine "
            f"{inner[worst]:.3f} with it: nothing of its own is left to mix in."
        )
    angle = math.radians(degrees)
    return math.cos(angle) * base + math.sin(angle) * unit(u - inner[:, None] * base)


def realised_cosines(
    vectors: Float[np.ndarray, "n d"], background: Background | None
) -> Float64[np.ndarray, " n"]:
    """Of what goes in with b^; NaN without a background."""
    if background is None:
        return np.full(len(vectors), np.nan)
    return unit(vectors.astype(np.float64)) @ background.direction


def streams(
    directions: Float[np.ndarray, "n d"], washout: Washout, background: Background | None
) -> tuple[Float64[np.ndarray, "n s d"], int]:
    """The vectors that are read for each direction, and how many of them are for it.

    Raises:
        InputError: a background is needed and not there, or one of another width.
    """
    u = unit(directions.astype(np.float64))
    if not washout.needs_background:
        return u[:, None], 1
    if background is None:
        raise InputError(
            "Expected a background for this washout: give the verbalizer one (background=...), or "
            "use Washout(angle=None)."
        )
    if background.rows.shape[1] != u.shape[1]:
        raise InputError(
            f"Expected a background of width {u.shape[1]}, got {background.rows.shape[1]}."
        )
    base = background.direction
    degrees = background.angle if washout.angle == "auto" else washout.angle
    if washout.members:
        turn = 90.0 if degrees is None else float(degrees)
        rows = background.members(washout.members, washout.seed)
        wanted = np.stack([mix_at_angle(u, row, turn) for row in rows], axis=1)
        against = np.broadcast_to(rows, wanted.shape)
        both = [wanted, against] if washout.omega else [wanted]
        return np.concatenate(both, axis=1), washout.members
    if washout.weight is not None:
        mixed = unit((1 - washout.weight) * base + washout.weight * u)
    elif degrees is None:
        mixed = u
    else:
        mixed = mix_at_angle(u, base, float(degrees))
    wanted = mixed[:, None]
    if not washout.omega:
        return wanted, 1
    if washout.against == "random":
        rng = np.random.default_rng(washout.seed)
        others = unit(rng.standard_normal((_RANDOM, u.shape[1])))
        if degrees is not None:
            others = mix_at_angle(others, base, float(degrees))
    else:
        others = base[None]
    against = np.broadcast_to(others, (len(u), *others.shape))
    return np.concatenate([wanted, against], axis=1), 1


def unit(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    """Rows of unit length.

    Raises:
        InputError: a zero row, or one that is not finite.
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise InputError("Expected directions that are finite and not zero.")
    return rows / norms
