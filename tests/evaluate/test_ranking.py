"""Ranking metrics against scikit-learn in float64, on the host and jitted."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from atlas_jax.evaluate.ranking import auroc, average_precision, pairwise_sum, ranking_quality

N = 41


def reference(scores, labels):
    columns = [(scores[:, j], labels[:, j]) for j in range(scores.shape[1])]
    return (
        np.array([roc_auc_score(y, s) for s, y in columns]),
        np.array([average_precision_score(y, s) for s, y in columns]),
    )


@pytest.fixture(params=["host", "device"])
def engine(request):
    return request.param


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    hnp.arrays(np.int8, (N, 3), elements=st.integers(-3, 3)),
    hnp.arrays(bool, (N, 3)),
)
def test_equals_scikit_learn_with_many_ties(engine, steps, labels):
    labels[0], labels[1] = True, False
    # -0.0 and 0.0 are one score, and the values are not exact in binary.
    scores = np.float32(steps) * np.float32(-0.1)
    area, precision = reference(scores, labels)
    found = ranking_quality(scores, labels, engine)
    np.testing.assert_allclose(found.auroc, area, atol=1e-6)
    np.testing.assert_allclose(found.ap, precision, atol=1e-6)


def test_stays_exact_at_200_thousand_samples(engine):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((200_000, 3), np.float32)
    labels = scores + rng.standard_normal(scores.shape) > np.array([2.5, 0.0, -2.5])
    scores[:, 1] = np.maximum(scores[:, 1], 0)  # half of the samples tie
    area, precision = reference(scores, labels)
    found = ranking_quality(scores, labels, engine)
    np.testing.assert_allclose(found.auroc, area, atol=3e-7)
    np.testing.assert_allclose(found.ap, precision, atol=3e-7)


def test_all_tied_is_a_coin_toss():
    labels = np.arange(10)[:, None] < 3
    scores = np.zeros((10, 1), np.float32)
    assert float(auroc(scores, labels)[0]) == 0.5
    assert float(average_precision(scores, labels)[0]) == pytest.approx(0.3, abs=1e-7)


def test_one_class_and_nan_scores_are_nan_and_leave_other_columns_alone(engine):
    scores = np.tile(np.arange(6, dtype=np.float32)[:, None], (1, 4))
    labels = np.stack([np.zeros(6, bool), np.ones(6, bool), np.arange(6) > 2, np.arange(6) > 2], 1)
    scores[2, 3] = np.nan
    expected = np.array([np.nan, np.nan, 1.0, np.nan])
    found = ranking_quality(scores, labels, engine)
    np.testing.assert_array_equal(found.auroc, expected)
    np.testing.assert_array_equal(found.ap, expected)


def test_more_columns_than_are_taken_together():
    rng = np.random.default_rng(2)
    scores, labels = rng.standard_normal((90, 37), np.float32), rng.random((90, 37)) < 0.3
    area, precision = reference(scores, labels)
    np.testing.assert_allclose(auroc(scores, labels), area, atol=1e-12)
    np.testing.assert_allclose(average_precision(scores, labels), precision, atol=1e-12)
    on_device = ranking_quality(jnp.asarray(scores), jnp.asarray(labels), "device")
    np.testing.assert_allclose(on_device.auroc, area, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_pairwise_sum_of_any_length(n):
    values = np.random.default_rng(n).random(n).astype(np.float32)
    assert float(pairwise_sum(jnp.asarray(values))) == pytest.approx(
        values.sum(dtype=np.float64), rel=2e-7
    )
