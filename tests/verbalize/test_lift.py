"""Lift statistics: closed forms, calibration, and texts whose lift is known."""

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.verbalize.lift import (
    bootstrap_lift,
    holm,
    lift_dc,
    lift_rand,
    lift_spec,
    noise_ceiling,
    permutation_test,
    retrieval,
    sign_flip_test,
    similarity,
    topic_clusters,
)
from atlas_jax.verbalize.quirks import (
    genericness,
    leakage,
    not_lower,
    nuance,
    quirk_rates,
    round_trip,
    stability,
)
from atlas_jax.verbalize.verbalizer import Explanation

RNG = np.random.default_rng(0)
N = 30


def units(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def noisy(n=N, seed=0, signal=0.6):
    rng = np.random.default_rng(seed)
    native = rng.standard_normal((n, 24))
    common = 3 * units(rng.standard_normal(24))
    foreign = signal * native + 0.8 * rng.standard_normal((n, 24))
    return similarity(units(foreign + common)[None], units(native + common)[None])


def test_lifts_of_texts_that_are_known():
    """Disjoint words: the same text, one text for all, and each one's neighbour."""
    words = np.eye(N)
    np.testing.assert_allclose(lift_spec(similarity(words[None], words[None])), 1)
    constant = np.repeat(words[:1], N, axis=0)
    assert lift_spec(similarity(constant[None], words[None])).mean() == pytest.approx(0, abs=1e-12)
    shifted = similarity(np.roll(words, 1, axis=0)[None], words[None])
    np.testing.assert_allclose(lift_spec(shifted), -1 / (N - 1))


def test_what_each_lift_cancels():
    s, row, column = noisy(), RNG.standard_normal((N, 1)), RNG.standard_normal((1, N))
    np.testing.assert_allclose(lift_spec(s + row), lift_spec(s))
    assert not np.allclose(lift_spec(s + column), lift_spec(s))
    np.testing.assert_allclose(lift_dc(s + 0.3 + row + column), lift_dc(s))
    moved = s + 0.3 + row + column
    assert lift_spec(moved).mean() == pytest.approx(lift_spec(s).mean())
    assert lift_dc(s).mean() == pytest.approx(lift_spec(s).mean())
    off = ~np.eye(N, dtype=bool)
    assert lift_spec(s).mean() == pytest.approx(np.diag(s).mean() - s[off].mean())
    random = RNG.standard_normal((7, N))
    np.testing.assert_allclose(
        lift_rand(s + column, random + column), np.diag(s) - random.mean(axis=0)
    )


def test_retrieval_counts_ties_as_shares():
    s = np.array([[3.0, 1, 0], [2, 2, 0], [5, 4, 3]])
    top, reciprocal = retrieval(s)
    np.testing.assert_allclose(top, [1, 0.5, 0])
    np.testing.assert_allclose(reciprocal, [1, 0.75, 1 / 3])
    same = np.ones((4, 4))
    assert retrieval(same)[0].mean() == 1 / 4


def test_the_bootstrap_masks_twins():
    s = noisy()
    truth = lift_spec(s).mean()
    found = bootstrap_lift(s, draws=1500)
    assert found.mean == pytest.approx(truth) and found.low < truth < found.high
    rng, naive = np.random.default_rng(0), []
    for _ in range(1500):
        index = rng.integers(N, size=N)
        naive.append(lift_spec(s[np.ix_(index, index)]).mean())
    middle = (found.low + found.high) / 2
    assert abs(middle - truth) < 0.5 * abs(np.mean(naive) - truth)


def test_permutations_have_their_closed_form_and_are_calibrated():
    s = noisy()
    rng, rows = np.random.default_rng(1), np.arange(N)
    drawn = np.array([s[rows, rng.permutation(N)].mean() for _ in range(20000)])
    found = permutation_test(s, draws=499)
    assert found.expected == pytest.approx(drawn.mean(), abs=4 * found.sd / np.sqrt(20000))
    assert found.sd == pytest.approx(drawn.std(), rel=0.03)
    assert found.p == 1 / 500 and found.z > 5
    null = [permutation_test(noisy(15, seed, 0.0), 99, seed).p for seed in range(200)]
    assert 0.01 <= np.mean(np.array(null) <= 0.05) <= 0.1
    assert 0.4 < np.mean(null) < 0.6


def test_within_topics_only_the_identity_beyond_the_topic_counts():
    topics = np.repeat(np.arange(3), 8)
    rng = np.random.default_rng(2)
    centres = 4 * rng.standard_normal((3, 24))[topics]
    native, foreign = (units(centres + rng.standard_normal((24, 24))) for _ in "ab")
    s = foreign @ native.T
    assert permutation_test(s, 999).p < 0.01  # the topics match
    groups = topic_clusters(native[None], 3)
    assert len({(a, b) for a, b in zip(topics, groups, strict=True)}) == 3
    inside = permutation_test(s, 999, clusters=groups)
    assert inside.p > 0.05 and abs(inside.z) < 3


def test_noise_ceiling_is_the_lift_of_further_samples():
    native = units(RNG.standard_normal((3, N, 24)) * 0.3 + RNG.standard_normal((N, 24)))
    found = noise_ceiling(native)
    one = lift_spec(native[0] @ native[1].T).mean()
    assert found == pytest.approx(one, abs=0.05) and 0.5 < found < 1
    assert np.isnan(noise_ceiling(native[:1]))


def test_paired_tests():
    assert sign_flip_test(np.full(12, 0.3)) < 0.001
    assert 0.3 < sign_flip_test(np.array([1.0, -1, 2, -2])) <= 1
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    low, fine = not_lower(np.full(20, 0.5), np.full(20, 0.52), margin=0.05)
    assert low == pytest.approx(-0.02) and fine
    assert not not_lower(np.full(20, 0.5), np.full(20, 0.6), margin=0.05)[1]
    with pytest.raises(InputError, match="margin of at least 0"):
        not_lower(np.ones(3), np.ones(3), -0.1)


def said(text, complete=True):
    return Explanation(text, text, complete, 0.0)


def test_quirks_are_counted():
    rates = quirk_rates([said("红 red"), said("", False), said("a b c a b c a b c")])
    assert rates["cjk"] == pytest.approx(1 / 13)
    assert rates["untagged"] == rates["empty"] == pytest.approx(1 / 3)
    assert rates["repeated"] == pytest.approx((1 - 3 / 7) / 3)
    rows = np.eye(4)
    assert genericness(rows) == 0 and genericness(rows[[0, 0]]) == 1
    assert leakage(rows, rows[0]) == 0.25
    assert stability(np.stack([rows, rows])) == pytest.approx(1)
    assert np.isnan(stability(rows[None]))
    s = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0, 0, 0.5]])
    d = np.array([[1.0, 0.1], [1.0, 0], [0, 1.0]])
    assert nuance(s, d).tolist() == [1, 0]  # the third has no neighbour
    base, u = np.eye(5)[0], RNG.standard_normal((3, 5))
    np.testing.assert_allclose(round_trip(u + 40 * base, u, base), 1)
    np.testing.assert_allclose(round_trip(-u + 40 * base, u, base), -1)


def test_too_few_features_are_refused():
    with pytest.raises(InputError, match="at least 3 features"):
        lift_dc(np.ones((2, 2)))
