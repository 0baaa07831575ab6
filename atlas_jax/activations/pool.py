"""Pooling over the tokens of a sample: (B, T, d) to (B, d)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.errors import InputError

# A row of padding, or of one token, has nothing to pool: max gives -inf, the others NaN, which a
# store and a fit refuse.
PoolFunction = Callable[[Float[Array, "b t d"], Bool[Array, "b t"]], Float[Array, "b d"]]


def after_first(mask: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """The real tokens but the first one of each sample.

    The first position is an attention sink: its norm is tens of times that of any other, and a
    maximum over it would be the same for every text.
    """
    return mask & (jnp.cumsum(mask.astype(jnp.int32), axis=1) > 1)


def pool_max(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Largest value of each feature (the paper's pooling)."""
    kept = after_first(mask)[:, :, None]
    return jnp.max(jnp.where(kept, acts, -jnp.inf), axis=1)


def pool_mean(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean of each feature, summed in float32."""
    kept = after_first(mask)[:, :, None]
    total = jnp.sum(jnp.where(kept, acts, 0).astype(jnp.float32), axis=1)
    return (total / jnp.sum(kept, axis=1, dtype=jnp.float32)).astype(acts.dtype)


def pool_absmax(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The value of largest magnitude of each feature, with its sign; the earliest among equals."""
    kept = after_first(mask)
    size = jnp.where(kept[:, :, None], jnp.abs(acts), -jnp.inf)
    return _at(acts, jnp.argmax(size, axis=1)[:, None], kept)


def pool_last(acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The last real token."""
    position = jnp.arange(mask.shape[1], dtype=jnp.int32)
    kept = after_first(mask)
    last = jnp.max(jnp.where(kept, position[None, :], 0), axis=1)
    return _at(acts, last[:, None, None], kept)


def _at(
    acts: Float[Array, "b t d"], position: Int[Array, "b 1 n"], kept: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    """The values at a position of each row; NaN where none is kept."""
    values = jnp.take_along_axis(acts, position, axis=1)[:, 0]
    return jnp.where(jnp.any(kept, axis=1)[:, None], values, jnp.nan)


POOLS: dict[str, PoolFunction] = {
    "max": pool_max,
    "mean": pool_mean,
    "absmax": pool_absmax,
    "last": pool_last,
}
"""The poolings by name. None of them sees padding or the first position."""


TOKENS = "tokens"
"""No pooling: every token of every text is kept."""


@dataclass(frozen=True)
class Poolings:
    """Several poolings of one array: (B, T, d) to (P, B, d), each on each feature alone.

    Hashable, and equal to any other of the same names: a model is compiled once for it.

    Attributes:
        names: keys of `POOLS`.
    """

    names: tuple[str, ...]

    def __call__(
        self, acts: Float[Array, "b t d"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "p b d"]:
        return jnp.stack([POOLS[name](acts, mask) for name in self.names])


def pool_function(names: Sequence[str]) -> PoolFunction | Poolings | None:
    """What a model applies to each site: nothing for `tokens`, else the poolings of these names."""
    if tuple(names) == (TOKENS,):
        return None
    return POOLS[names[0]] if len(names) == 1 else Poolings(tuple(names))


Pools = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def pools_of_sites(pool: Pools, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The poolings of each site.

    Args:
        pool: a name or several, for all sites; or by site.
        sites: their names.

    Raises:
        InputError: an unknown pooling, a site that `pool` leaves out or does not know, or `tokens`
            beside a pooling.
    """
    by_site = dict(pool) if isinstance(pool, Mapping) else dict.fromkeys(sites, pool)
    if set(by_site) != set(sites):
        raise InputError(
            f"Expected a pooling for each of {', '.join(sites)}, got some for "
            f"{', '.join(by_site) or 'none'}."
        )
    found = {}
    for site in sites:
        names = by_site[site]
        found[site] = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
        unknown = [name for name in found[site] if name not in POOLS and name != TOKENS]
        if unknown or not found[site]:
            raise InputError(
                f"Expected a pooling among {', '.join(POOLS)}, {TOKENS}, got "
                f"{', '.join(map(repr, unknown)) or 'none'}."
            )
    used = {name for names in found.values() for name in names}
    if TOKENS in used and len(used) > 1:
        raise InputError(
            f"'{TOKENS}' keeps a row for each token, {', '.join(sorted(used - {TOKENS}))} one for "
            "each text: capture them into two stores."
        )
    return found
