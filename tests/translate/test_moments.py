"""The streamed sums equal float64 sums of all rows, for any split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.translate.moments import (
    CrossState,
    ProductState,
    Sum,
    UnitCrossState,
    gram,
    merge_moments,
)

RNG = np.random.default_rng(0)
SUBJECT = (RNG.standard_normal((300, 7)) * RNG.uniform(0.1, 30, 7) + 200).astype(np.float32)
ATLAS = np.maximum(RNG.standard_normal((300, 11)) - 1, 0).astype(np.float32)


def stream(cuts, make, *sides):
    state = make(*(jnp.asarray(side[: cuts[0]]) for side in sides))
    for start, stop in zip([0, *cuts], [*cuts, len(sides[0])], strict=True):
        if stop > start:
            state = state.update(*(jnp.asarray(side[start:stop]) for side in sides))
    return state


def test_cross_moments_equal_float64():
    state = stream([64, 128, 299], CrossState.init, jnp.asarray(SUBJECT), jnp.asarray(ATLAS))
    moments = state.finalize()
    s, c = SUBJECT.astype(np.float64), ATLAS.astype(np.float64)
    expected = (s - s.mean(0)).T @ (c - c.mean(0)) / len(s)
    assert moments.n == 300
    np.testing.assert_allclose(moments.mean_subject, s.mean(0), rtol=1e-7)
    np.testing.assert_allclose(moments.variance_subject, s.var(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance_atlas, c.var(0), rtol=1e-6)
    np.testing.assert_allclose(moments.covariance, expected, atol=1e-6 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 299), min_size=1, max_size=6, unique=True).map(sorted))
def test_any_split_gives_the_same_moments(cuts):
    whole = stream([300], CrossState.init, SUBJECT, ATLAS).finalize()
    split = stream(cuts, CrossState.init, SUBJECT, ATLAS).finalize()
    scale = np.abs(whole.covariance).max()
    np.testing.assert_allclose(split.covariance, whole.covariance, atol=2e-6 * scale)
    np.testing.assert_allclose(split.variance_subject, whole.variance_subject, rtol=1e-5)


def test_merge_is_associative_and_free_of_order():
    parts = [
        stream([40], CrossState.init, SUBJECT[a:b], ATLAS[a:b]).finalize()
        for a, b in [(0, 90), (90, 130), (130, 300)]
    ]
    whole = stream([300], CrossState.init, SUBJECT, ATLAS).finalize()
    left = merge_moments(merge_moments(parts[0], parts[1]), parts[2])
    right = merge_moments(parts[2], merge_moments(parts[1], parts[0]))
    for merged in (left, right):
        assert merged.n == 300
        scale = np.abs(whole.covariance).max()
        np.testing.assert_allclose(merged.covariance, whole.covariance, atol=2e-6 * scale)
    np.testing.assert_allclose(left.covariance, right.covariance, rtol=1e-9, atol=1e-9)


def test_a_large_mean_costs_no_precision():
    rows = (RNG.standard_normal((4096, 4)) + 1e4).astype(np.float32)
    state = stream(list(range(256, 4096, 256)), CrossState.init, rows, rows)
    expected = np.cov(rows.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(state.finalize().covariance, expected, atol=2e-6)
    naive = rows.T @ rows / 4096 - np.outer(rows.mean(0), rows.mean(0))
    assert np.abs(naive - expected).max() > 1e-3  # what the shift is for


def test_gram_and_unit_cross_equal_float64():
    state = ProductState.init(11, 11)
    unit = UnitCrossState.init(7, 11)
    for start in range(0, 300, 50):
        s, c = jnp.asarray(SUBJECT[start : start + 50]), jnp.asarray(ATLAS[start : start + 50])
        state, unit = state.update(c, c), unit.update(s, c)
    s, c = SUBJECT.astype(np.float64), ATLAS.astype(np.float64)
    np.testing.assert_allclose(state.finalize(), c.T @ c, rtol=1e-13)
    length = np.linalg.norm(c, axis=1, keepdims=True)
    units = (s / np.linalg.norm(s, axis=1, keepdims=True)).T @ np.where(
        length > 0, c / np.where(length > 0, length, 1), 0
    )
    np.testing.assert_allclose(unit.finalize(), units, rtol=1e-5, atol=1e-6)


def test_compensated_sum_keeps_what_float32_loses():
    total = Sum.zeros(1)
    step = jax.jit(Sum.add)
    for _ in range(1000):
        total = step(total, jnp.full(1, 1e8, jnp.float32))
        total = step(total, jnp.ones(1, jnp.float32))
    assert total.value()[0] == pytest.approx(1000 * (1e8 + 1), abs=1e-3)
    one = jnp.ones(1, jnp.float32)
    half = Sum(1e8 * one, 0 * one).merge(Sum(one, 1e-9 * one))
    assert half.value()[0] == pytest.approx(1e8 + 1 + 1e-9, abs=1e-7)


def test_products_ask_for_full_precision():
    jaxpr = str(jax.make_jaxpr(gram)(jnp.ones((4, 2)), jnp.ones((4, 3))))
    assert "HIGHEST" in jaxpr and "preferred_element_type=float32" in jaxpr
