"""The check of mapped directions by regression, against numpy's own covariances."""

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.verbalize import Ridge, solve_bridge
from atlas_jax.verbalize.bridge_moments import PairSums
from atlas_jax.verbalize.regression import RegressionSums


def test_beta_is_the_ratio_of_covariances_in_any_blocks():
    rng = np.random.default_rng(0)
    acts = np.maximum(rng.standard_normal((300, 5)), 0)
    acts[:, 4] = 0.7  # never changes
    rows = 1e4 + acts @ rng.standard_normal((5, 7)) + rng.standard_normal((300, 7))
    sums = RegressionSums()
    for part in np.array_split(np.arange(300), 7):
        sums.add(acts[part].astype(np.float32), rows[part])
    sums.add(acts[:0].astype(np.float32), rows[:0])
    found = sums.directions()
    a = acts.astype(np.float32).astype(np.float64)
    for f in range(4):
        joint = np.cov(np.column_stack([a[:, f], rows]).T)
        np.testing.assert_allclose(found[f], joint[0, 1:] / joint[0, 0], rtol=1e-7)
    assert np.isnan(found[4]).all()
    with pytest.raises(InputError, match="Expected pairs"):
        RegressionSums().directions()


def test_it_agrees_with_a_bridge_that_carries_the_feature_and_not_with_a_wrong_one():
    rng = np.random.default_rng(1)
    p, q, n = 16, 20, 4000
    decoder = np.linalg.qr(rng.standard_normal((p, p)))[0][:6]
    acts = np.maximum(rng.standard_normal((n, 6)), 0)
    x = acts @ decoder + 0.05 * rng.standard_normal((n, p))
    true = rng.standard_normal((q, p))
    y = (x @ true.T + 0.1 * rng.standard_normal((n, q))) * np.exp(rng.standard_normal(q))

    def bridge(target):
        sums = PairSums(5, 0)
        sums.add(x, target, rng.integers(10, 20, n))
        return solve_bridge(sums.moments({}), Ridge())

    sums = RegressionSums()
    sums.add(acts, y)
    right = sums.check(bridge(y), decoder)
    wrong = sums.check(bridge(y[rng.permutation(n)]), decoder)
    assert right.min() > 0.95 and np.abs(wrong).mean() < 0.5
    assert sums.check(bridge(-y), decoder).max() < -0.95
