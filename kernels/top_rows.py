"""The k rows in which each feature is largest, over a stream of blocks of rows.

A feature's k are held in no order. Of a few rows at a time, each feature's largest is compared with
its least one held, and as long as one exceeds it, it takes that place; late in a stream that is
seldom so, and the rows cost one comparison each. Sorted once, at the end of a block.

Not measured yet, on any device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32, Int32

from atlas_jax.kernels.blocks import Platform, call, padded, power_of_two
from atlas_jax.kernels.choice import chosen

Held = tuple[Float32[Array, "f k"], Int32[Array, "f k"]]


def top_rows(
    values: Float32[Array, "f k"],
    numbers: Int32[Array, "f k"],
    acts: Float32[Array, "n f"],
    number: Int32[Array, " n"],
) -> Held:
    """The k largest of those held and of new rows, falling; among equals, the lower number.

    Args:
        values: held, falling; -inf where there are fewer than k.
        numbers: theirs; -1 where there are fewer than k.
        acts: finite.
        number: of the new rows, rising and above all that are held; -1 for a row that is none.
    """
    if chosen("top_rows"):
        return kernel(values, numbers, acts, number, jax.default_backend())
    return reference(values, numbers, acts, number)


def reference(
    values: Float32[Array, "f k"],
    numbers: Int32[Array, "f k"],
    acts: Float32[Array, "n f"],
    number: Int32[Array, " n"],
) -> Held:
    """The same, by the k largest of the new rows and a sort of both."""
    k = values.shape[1]
    new = jnp.where((number >= 0)[:, None], acts, -jnp.inf)
    # A stable choice: among equal values lax.top_k takes the lower position first.
    best, places = lax.top_k(new.T, min(k, acts.shape[0]))
    values = jnp.concatenate([values, best], axis=1)
    numbers = jnp.concatenate([numbers, number[places]], axis=1)
    return _first(values, numbers, k)


def _first(values: Array, numbers: Array, k: int) -> Held:
    negated, numbers = lax.sort((-values, numbers), dimension=1, num_keys=2)
    return -negated[:, :k], numbers[:, :k]


def kernel(
    values: Float32[Array, "f k"],
    numbers: Int32[Array, "f k"],
    acts: Float32[Array, "n f"],
    number: Int32[Array, " n"],
    platform: Platform,
) -> Held:
    """The same, by Pallas. NaN is no activation: it is passed over."""
    (f, k), gpu = values.shape, platform == "gpu"
    wide, step = (32, 32) if gpu else (128, 32)
    rows = step if gpu else min(512, -(-len(acts) // step) * step)
    acts = padded(acts, rows, wide)
    rows = len(acts) if gpu else rows  # a program on a GPU cannot hand on what it holds
    number = jnp.pad(number, (0, len(acts) - len(number)), constant_values=-1)[:, None]
    # Places that are filled up are never free; those that are free yield one after the other.
    more = (power_of_two(k, 8) if gpu else -(-k // 8) * 8) - k
    place = jnp.arange(k, dtype=jnp.int32)[None]
    numbers = jnp.where(values == -jnp.inf, -1 - place, numbers)
    values = jnp.pad(values.T, ((0, more), (0, -f % wide)), constant_values=jnp.inf)
    numbers = jnp.pad(numbers.T, ((0, more), (0, -f % wide)))
    held = pl.BlockSpec((k + more, wide), lambda i, j: (0, i))
    values, numbers = call(
        partial(_kernel, step=step),
        platform,
        2,
        grid=(acts.shape[1] // wide, len(acts) // rows),
        in_specs=[
            pl.BlockSpec((rows, wide), lambda i, j: (j, i)),
            pl.BlockSpec((rows, 1), lambda i, j: (j, 0)),
            held,
            held,
        ],
        out_specs=[held, held],
        out_shape=[jax.ShapeDtypeStruct(values.shape, x.dtype) for x in (values, numbers)],
    )(acts, number, values, numbers)
    values, numbers = _first(values[:k, :f].T, numbers[:k, :f].T, k)
    return values, jnp.maximum(numbers, -1)


def _kernel(acts, number, values, numbers, out_values, out_numbers, *, step: int):
    def take(state: Any) -> Any:
        new, best, numbered, values, numbers = state
        least = jnp.min(values, axis=0, keepdims=True)
        last = jnp.max(jnp.where(values == least, numbers, -(2**31)), axis=0, keepdims=True)
        # Of equal new rows the lowest goes first; of equal held ones the highest goes.
        mine = jnp.min(jnp.where(new == best, numbered, 2**31 - 1), axis=0, keepdims=True)
        free = (values == least) & (numbers == last) & (best > least)
        values, numbers = jnp.where(free, best, values), jnp.where(free, mine, numbers)
        new = jnp.where((new == best) & (numbered == mine), -jnp.inf, new)
        return new, jnp.max(new, axis=0, keepdims=True), numbered, values, numbers

    def exceeds(state: Any) -> Any:
        _, best, _, values, _ = state
        least = jnp.min(values, axis=0, keepdims=True)
        return jnp.max((best > least).astype(jnp.int32)) > 0

    def over_rows(i: Any, held: Any) -> Any:
        part = pl.ds(i * step, step)
        numbered = jnp.broadcast_to(number[part, :], (step, acts.shape[1]))
        new = acts[part, :]
        new = jnp.where((numbered >= 0) & (new == new), new, -jnp.inf)
        best = jnp.max(new, axis=0, keepdims=True)
        return lax.while_loop(exceeds, take, (new, best, numbered, *held))[3:]

    later = pl.program_id(1) > 0
    held = (
        jnp.where(later, out_values[...], values[...]),
        jnp.where(later, out_numbers[...], numbers[...]),
    )
    out_values[...], out_numbers[...] = lax.fori_loop(0, acts.shape[0] // step, over_rows, held)
