"""Samples scored by directions and labelled by the atlas, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.errors import InputError
from atlas_jax.progress import track
from atlas_jax.translate.rows import check_finite

ROWS = 4096


def row_batches(site: Any, rows: int = ROWS) -> Iterator[np.ndarray]:
    """The rows of a store's site or of an array, in order; at most so many at a time."""
    if hasattr(site, "batches"):  # of a store, which holds nothing that is not finite
        yield from site.batches(rows)
        return
    for start in range(0, int(site.shape[0]), rows):
        batch = np.asarray(site[start : start + rows])
        check_finite({"the activations": batch}, start)
        yield batch


def tracked(site: Any, label: str) -> Iterator[np.ndarray]:
    """The same with a progress bar."""
    yield from track(row_batches(site), label, -(-int(site.shape[0]) // ROWS))


def count_positives(atlas: Any) -> Int[np.ndarray, " dc"]:
    """How many samples activate each feature."""
    counts = np.zeros(int(atlas.shape[1]), np.int64)
    for batch in tracked(atlas, "counting positives"):
        counts += np.count_nonzero(batch > 0, axis=0)
    return counts


def labels_of(atlas: Any, chosen: Int[np.ndarray, " q"]) -> Bool[np.ndarray, "n q"]:
    """Whether each sample activates each of some features."""
    if hasattr(atlas, "columns"):
        return np.asarray(atlas.columns(chosen)) > 0
    return np.concatenate([b[:, chosen] > 0 for b in tracked(atlas, "labelling samples")])


@partial(jax.jit, static_argnames="cosine")
def score(
    batch: Float[Array, "b ds"], directions: Float[Array, "ds k"], cosine: bool
) -> Float[Array, "b k"]:
    """A_s @ directions (eq. 3), or the cosines of the two."""
    out = jnp.matmul(batch, directions, precision=lax.Precision.HIGHEST)
    if cosine:
        sides = jnp.linalg.norm(batch, axis=1, keepdims=True) * jnp.linalg.norm(
            directions, axis=0, keepdims=True
        )
        out = out / jnp.where(sides > 0, sides, 1.0)
    return out


def score_samples(
    subject: Any, directions: Float[np.ndarray, "ds k"], cosine: bool
) -> Float[np.ndarray, "n k"]:
    """`score` of all samples, in one pass over the rows.

    Raises:
        InputError: a score that is not finite.
    """
    out = np.empty((int(subject.shape[0]), directions.shape[1]), np.float32)
    placed, start = jnp.asarray(directions), 0
    for batch in tracked(subject, "scoring samples"):
        rows = jnp.asarray(batch, jnp.float32)
        out[start : start + len(batch)] = score(rows, placed, cosine=cosine)
        start += len(batch)
    if not np.isfinite(out).all():
        raise not_finite(int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0]))
    return out


def not_finite(sample: int) -> InputError:
    """What is said of a sample whose score is NaN or infinite."""
    return InputError(
        f"Expected finite scores, sample {sample} has none: its subject activations or the "
        "translation hold NaN or infinity. Capture it again."
    )
