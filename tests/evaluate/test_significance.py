"""Intervals, paired tests and corrections, against enumeration and SciPy."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test, wilcoxon

from atlas_jax.evaluate.significance import (
    holm,
    mean_interval,
    paired_tests,
    sign_flip_test,
    wilcoxon_test,
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


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_are_exact_for_few_pairs(seed):
    gaps = np.round(np.random.default_rng(seed).normal(0.2, 0.5, 9), 1)
    means = [abs(np.mean(np.array(signs) * gaps)) for signs in product((1, -1), repeat=9)]
    expected = np.mean(np.array(means) >= abs(gaps.mean()) - 1e-9)
    assert sign_flip_test(np.append(gaps, np.nan)) == pytest.approx(expected, abs=1e-12)


def test_sign_flips_by_draws_agree_with_scipy():
    gaps = np.random.default_rng(3).normal(0.1, 0.4, 40)
    other = permutation_test(
        (gaps, np.zeros(40)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=20_000,
        rng=1,
    )
    assert sign_flip_test(gaps) == pytest.approx(other.pvalue, abs=0.015)  # 4 deviations at most
    assert sign_flip_test(gaps, seed=7) == sign_flip_test(gaps, seed=7)
    assert sign_flip_test(np.full(40, 0.3)) == pytest.approx(1 / 20_001)


def test_a_true_null_is_rejected_as_often_as_it_says():
    rng = np.random.default_rng(5)
    p = np.array([sign_flip_test(rng.standard_t(3, 25), draws=199) for _ in range(400)])
    assert 5 <= np.count_nonzero(p <= 0.05) <= 38  # 20 expected
    assert np.all(p > 0)


def test_holm_is_the_hand_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, float("nan"), 0.4])[0] == pytest.approx(0.8)
    assert np.isnan(holm([0.5, float("nan")])[1])
    assert holm([]) == []


def test_wilcoxon_is_scipys():
    gaps = np.random.default_rng(6).normal(0.1, 0.5, 30)
    assert wilcoxon_test(gaps) == pytest.approx(wilcoxon(gaps).pvalue)
    assert wilcoxon_test(np.zeros(8)) == 1.0
    assert np.isnan(wilcoxon_test(np.array([np.nan])))


def test_every_two_methods_are_compared_and_corrected():
    rng = np.random.default_rng(8)
    base = rng.random(50)
    values = {"a": base + 0.2 + 0.1 * rng.random(50), "b": base, "c": base + rng.normal(0, 0.1, 50)}
    values["a"][3] = np.nan
    rows = {(row["a"], row["b"]): row for row in paired_tests(values)}
    assert set(rows) == {("a", "b"), ("a", "c"), ("b", "c")}
    ahead = rows["a", "b"]
    assert ahead["queries"] == ahead["wins"] == 49 and ahead["low"] > 0.2
    assert ahead["p_holm"] == pytest.approx(3 * ahead["p"]) and ahead["p_wilcoxon"] < 1e-6
    assert rows["b", "c"]["p_holm"] > 0.05
    assert rows["b", "c"]["low"] < 0 < rows["b", "c"]["high"]
    assert paired_tests({"alone": base}) == []
