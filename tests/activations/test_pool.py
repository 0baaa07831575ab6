"""Poolings against a loop over the tokens that count."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations.pool import POOLS, TOKENS, Poolings, pool_function, pools_of_sites
from atlas_jax.errors import InputError

RNG = np.random.default_rng(0)
ACTS = RNG.standard_normal((5, 7, 4)).astype(np.float32)
MASK = np.zeros((5, 7), bool)
for row, (start, stop) in enumerate([(0, 7), (0, 2), (2, 7), (5, 7), (0, 4)]):  # either padding
    MASK[row, start:stop] = True
ACTS[~MASK] = 1e9
ACTS[np.arange(5), MASK.argmax(1)] = -1e9  # the first position, a sink

ORACLES = {
    "max": lambda a: a.max(0),
    "mean": lambda a: a.mean(0),
    "absmax": lambda a: a[np.abs(a).argmax(0), np.arange(4)],
    "last": lambda a: a[-1],
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neither_padding_nor_the_first_position_counts(name, dtype):
    acts = jnp.asarray(ACTS).astype(dtype)
    pooled = POOLS[name](acts, jnp.asarray(MASK))
    assert pooled.dtype == acts.dtype
    wide = np.asarray(acts, np.float32)
    expected = np.stack([ORACLES[name](wide[i][np.flatnonzero(MASK[i])[1:]]) for i in range(5)])
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(np.asarray(pooled, np.float32), expected, rtol=tolerance)


def test_several_poolings_at_once_are_each_by_itself():
    acts, mask = jnp.asarray(ACTS), jnp.asarray(MASK)
    together = Poolings(("last", "max", "mean"))(acts, mask)
    for name, pooled in zip(("last", "max", "mean"), together, strict=True):
        np.testing.assert_array_equal(pooled, POOLS[name](acts, mask))
    names = ["max", "mean"]
    assert pool_function(names) == pool_function(names)  # compiled once
    assert hash(pool_function(names)) == hash(pool_function(names))
    assert pool_function(["max"]) is POOLS["max"] and pool_function([TOKENS]) is None


def test_poolings_of_sites():
    assert pools_of_sites("max", ("a", "b")) == {"a": ("max",), "b": ("max",)}
    assert pools_of_sites(["max", "mean", "max"], ("a",)) == {"a": ("max", "mean")}
    mixed = {"a": "last", "b": ("max", "mean")}
    assert pools_of_sites(mixed, ("a", "b")) == {"a": ("last",), "b": ("max", "mean")}
    with pytest.raises(InputError, match="among max, mean, absmax, last, tokens, got 'sum'"):
        pools_of_sites("sum", ("a",))
    with pytest.raises(InputError, match="got none"):
        pools_of_sites((), ("a",))
    with pytest.raises(InputError, match="for each of a, b, got some for a"):
        pools_of_sites({"a": "max"}, ("a", "b"))
    with pytest.raises(InputError, match="capture them into two stores"):
        pools_of_sites(("max", TOKENS), ("a",))
