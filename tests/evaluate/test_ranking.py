"""Ranking metrics against scikit-learn in float64, and the bootstrap."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from atlas_jax.evaluate.ranking import auroc, average_precision, mean_interval, pairwise_sum

N = 41


def reference(scores, labels):
    columns = [(scores[:, j], labels[:, j]) for j in range(scores.shape[1])]
    return (
        np.array([roc_auc_score(y, s) for s, y in columns]),
        np.array([average_precision_score(y, s) for s, y in columns]),
    )


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int8, (N, 3), elements=st.integers(-3, 3)),
    hnp.arrays(bool, (N, 3)),
)
def test_equals_scikit_learn_with_many_ties(steps, labels):
    labels[0], labels[1] = True, False
    # -0.0 and 0.0 are one score, and the values are not exact in binary.
    scores = np.float32(steps) * np.float32(-0.1)
    area, precision = reference(scores, labels)
    np.testing.assert_allclose(np.asarray(auroc(scores, labels)), area, atol=1e-6)
    np.testing.assert_allclose(np.asarray(average_precision(scores, labels)), precision, atol=1e-6)


def test_stays_exact_at_200_thousand_samples():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((200_000, 3), np.float32)
    labels = scores + rng.standard_normal(scores.shape) > np.array([2.5, 0.0, -2.5])
    scores[:, 1] = np.maximum(scores[:, 1], 0)  # half of the samples tie
    area, precision = reference(scores, labels)
    np.testing.assert_allclose(np.asarray(auroc(scores, labels)), area, atol=3e-7)
    np.testing.assert_allclose(np.asarray(average_precision(scores, labels)), precision, atol=3e-7)


def test_all_tied_is_a_coin_toss():
    labels = np.arange(10)[:, None] < 3
    scores = np.zeros((10, 1), np.float32)
    assert float(auroc(scores, labels)[0]) == 0.5
    assert float(average_precision(scores, labels)[0]) == pytest.approx(0.3, abs=1e-7)


def test_one_class_and_nan_scores_are_nan_and_leave_other_columns_alone():
    scores = np.tile(np.arange(6, dtype=np.float32)[:, None], (1, 4))
    labels = np.stack([np.zeros(6, bool), np.ones(6, bool), np.arange(6) > 2, np.arange(6) > 2], 1)
    scores[2, 3] = np.nan
    expected = np.array([np.nan, np.nan, 1.0, np.nan])
    np.testing.assert_array_equal(np.asarray(auroc(scores, labels)), expected)
    np.testing.assert_array_equal(np.asarray(average_precision(scores, labels)), expected)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_pairwise_sum_of_any_length(n):
    values = np.random.default_rng(n).random(n).astype(np.float32)
    assert float(pairwise_sum(jnp.asarray(values))) == pytest.approx(
        values.sum(dtype=np.float64), rel=2e-7
    )


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        mean, low, high = mean_interval(rng.normal(0.3, 1.0, 80), seed, draws=400, level=0.9)
        assert low < mean < high
        inside += low < 0.3 < high
    assert 165 <= inside <= 194  # 180 expected, 4 standard deviations


def test_interval_ignores_nan_and_repeats():
    values = np.array([0.1, np.nan, 0.5, 0.9, np.nan])
    assert mean_interval(values, 3) == mean_interval(values[~np.isnan(values)], 3)
    assert mean_interval(values, 3).mean == pytest.approx(0.5)
    assert all(np.isnan(mean_interval(np.array([np.nan]), 0)))
