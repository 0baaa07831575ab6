"""Streamed sums over pairs of rows: the states from which the translations are computed.

Each state is a small pytree with `init`, `update`, `merge` and `finalize`. Products are taken in
float32 at full precision; sums over batches are compensated (two-sum), so that they carry about
48 bits whatever the number of batches. Regressions alone need float64 (`ProductState`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from atlas_jax.errors import InputError


class Sum(NamedTuple):
    """A compensated sum: the value is high + low."""

    high: Array
    low: Array

    @classmethod
    def zeros(cls, *shape: int) -> Sum:
        """Nothing summed yet."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def add(self, x: Array) -> Sum:
        """Knuth's two-sum: the rounding error of high + x goes into low."""
        total = self.high + x
        back = total - self.high
        error = (self.high - (total - back)) + (x - back)
        return Sum(total, self.low + error)

    def merge(self, other: Sum) -> Sum:
        """The sum of both."""
        joined = self.add(other.high)
        return Sum(joined.high, joined.low + other.low)

    def value(self) -> Float64[np.ndarray, "..."]:
        """The sum in float64."""
        return np.asarray(self.high, np.float64) + np.asarray(self.low, np.float64)


def gram(a: Float[Array, "n p"], b: Float[Array, "n q"]) -> Float[Array, "p q"]:
    """a' b in float32."""
    return lax.dot_general(
        a,
        b,
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


class CrossMoments(NamedTuple):
    """What covariance and correlation need, in float64; centred, divided by n."""

    n: int
    mean_subject: Float64[np.ndarray, " ds"]
    mean_atlas: Float64[np.ndarray, " dc"]
    variance_subject: Float64[np.ndarray, " ds"]
    variance_atlas: Float64[np.ndarray, " dc"]
    covariance: Float64[np.ndarray, "ds dc"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossState:
    """Shifted sums of both sides and their cross product.

    The shift is the first batch's mean, so that a large mean costs no precision.
    """

    n: Array
    shift_subject: Float[Array, " ds"]
    shift_atlas: Float[Array, " dc"]
    sum_subject: Sum
    sum_atlas: Sum
    square_subject: Sum
    square_atlas: Sum
    cross: Sum

    @classmethod
    def init(cls, subject: Float[Array, "n ds"], atlas: Float[Array, "n dc"]) -> CrossState:
        """An empty state shifted by the mean of a first batch (which is not yet counted)."""
        ds, dc = subject.shape[1], atlas.shape[1]
        return cls(
            jnp.zeros((), jnp.int32),
            jnp.mean(subject.astype(jnp.float32), axis=0),
            jnp.mean(atlas.astype(jnp.float32), axis=0),
            Sum.zeros(ds),
            Sum.zeros(dc),
            Sum.zeros(ds),
            Sum.zeros(dc),
            Sum.zeros(ds, dc),
        )

    def update(self, subject: Float[Array, "n ds"], atlas: Float[Array, "n dc"]) -> CrossState:
        """Adds a batch of rows."""
        s = subject.astype(jnp.float32) - self.shift_subject[None, :]
        c = atlas.astype(jnp.float32) - self.shift_atlas[None, :]
        return replace(
            self,
            n=self.n + jnp.int32(s.shape[0]),
            sum_subject=self.sum_subject.add(jnp.sum(s, axis=0)),
            sum_atlas=self.sum_atlas.add(jnp.sum(c, axis=0)),
            square_subject=self.square_subject.add(jnp.sum(s * s, axis=0)),
            square_atlas=self.square_atlas.add(jnp.sum(c * c, axis=0)),
            cross=self.cross.add(gram(s, c)),
        )

    def finalize(self) -> CrossMoments:
        """Means, variances and covariance in float64."""
        n = int(self.n)
        ms, mc = self.sum_subject.value() / n, self.sum_atlas.value() / n
        return CrossMoments(
            n,
            np.asarray(self.shift_subject, np.float64) + ms,
            np.asarray(self.shift_atlas, np.float64) + mc,
            np.maximum(self.square_subject.value() / n - ms**2, 0.0),
            np.maximum(self.square_atlas.value() / n - mc**2, 0.0),
            self.cross.value() / n - np.outer(ms, mc),
        )

    def merge(self, other: Self) -> CrossMoments:
        """The moments of the rows of both states (Chan's rule, in float64)."""
        return merge_moments(self.finalize(), other.finalize())


def merge_moments(a: CrossMoments, b: CrossMoments) -> CrossMoments:
    """The moments of two disjoint sets of rows together.

    cov = (n_a cov_a + n_b cov_b) / n + (n_a n_b / n^2) d_s d_c',  d = mean_b - mean_a

    Source: Chan, Golub and LeVeque (1979).
    """
    n = a.n + b.n
    wa, wb = a.n / n, b.n / n
    ds, dc = b.mean_subject - a.mean_subject, b.mean_atlas - a.mean_atlas
    return CrossMoments(
        n,
        a.mean_subject + wb * ds,
        a.mean_atlas + wb * dc,
        wa * a.variance_subject + wb * b.variance_subject + wa * wb * ds**2,
        wa * a.variance_atlas + wb * b.variance_atlas + wa * wb * dc**2,
        wa * a.covariance + wb * b.covariance + wa * wb * np.outer(ds, dc),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProductState:
    """A' B, not centred, multiplied and summed in float64: the normal equations of regressions.

    A pseudo-inverse divides by small eigenvalues. Where samples are fewer than features, those of
    a float32 product are rounding, and as large as the ones that rare features own; in float64
    they fall below the cut. Every method here enables 64-bit types for itself.
    """

    total: Float64[Array, "p q"]

    @classmethod
    def init(cls, p: int, q: int) -> ProductState:
        """An empty state."""
        with jax.enable_x64(True):
            return cls(jnp.zeros((p, q), jnp.float64))

    def update(self, a: Float[Array, "n p"], b: Float[Array, "n q"]) -> ProductState:
        """Adds a batch of rows."""
        with jax.enable_x64(True):
            return ProductState(_add_product(self.total, a, b))

    def merge(self, other: ProductState) -> ProductState:
        """The product of the rows of both."""
        with jax.enable_x64(True):
            return ProductState(self.total + other.total)

    def finalize(self) -> Float64[np.ndarray, "p q"]:
        """A' B in float64."""
        return np.array(self.total)


@partial(jax.jit, donate_argnums=0)
def _add_product(total: Array, a: Array, b: Array) -> Array:
    return total + lax.dot_general(
        a.astype(jnp.float64),
        b.astype(jnp.float64),
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnitCrossState:
    """The cross product of rows of unit length, M = A_s^' A_c^ (Procrustes)."""

    cross: Sum

    @classmethod
    def init(cls, subject_width: int, atlas_width: int) -> UnitCrossState:
        """An empty state."""
        return cls(Sum.zeros(subject_width, atlas_width))

    def update(self, subject: Float[Array, "n ds"], atlas: Float[Array, "n dc"]) -> UnitCrossState:
        """Adds a batch of rows; a zero row adds nothing."""
        return UnitCrossState(self.cross.add(gram(unit_rows(subject), unit_rows(atlas))))

    def merge(self, other: UnitCrossState) -> UnitCrossState:
        """The cross product of the rows of both."""
        return UnitCrossState(self.cross.merge(other.cross))

    def finalize(self) -> Float64[np.ndarray, "ds dc"]:
        """M in float64."""
        return self.cross.value()


def unit_rows(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows divided by their Euclidean norm; zero rows stay zero."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


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
