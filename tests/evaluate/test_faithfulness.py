"""Equation 5 by hand and by a plain loop; resampled prompts are repeated prompts."""

import numpy as np
import pytest

from atlas_jax.evaluate.faithfulness import (
    activation_change,
    best_strength,
    faithfulness,
    gains,
    held_out,
    shares,
)

LAMBDAS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
RNG = np.random.default_rng(0)
RATINGS = RNG.choice(np.array([-1, 0, 1, 2], np.int8), (7, 5, 12), p=[0.05, 0.5, 0.15, 0.3])


def once(n):
    return np.ones((1, n))


def plain(ratings):
    found = []
    for row in ratings:
        r = [np.mean([x == 2 for x in one if x in (0, 2)]) for one in row]
        found.append(max((x - r[2]) / (1 - r[2]) * 100 for x in r))
    return np.array(found)


def test_faithfulness_equals_a_plain_loop():
    value, index = faithfulness(RATINGS, LAMBDAS, once(12))
    np.testing.assert_allclose(value[0], plain(RATINGS), atol=1e-12)
    gain = gains(shares(RATINGS, once(12)), 2)[0]
    np.testing.assert_allclose(gain[np.arange(7), index[0]], value[0])
    assert (value >= 0).all()


def test_vague_and_unrated_texts_count_for_neither_side():
    ratings = np.array([[[0, 1, 1, -1], [2, 0, 1, -1]]], np.int8)
    np.testing.assert_array_equal(shares(ratings, once(4))[0], [[0.0, 0.5]])
    value, _ = faithfulness(ratings, np.array([0.0, 3.0]), once(4))
    assert value == 50
    assert np.isnan(shares(np.full((1, 2, 3), 1, np.int8), once(3))).all()


def test_an_unsteered_text_that_has_the_concept_leaves_no_room():
    always = np.full((1, 2, 3), 2, np.int8)
    value, _ = faithfulness(always, np.array([0.0, 1.0]), once(3))
    assert np.isnan(value).all()


def test_nothing_gained_is_strength_0_and_ties_go_to_the_weaker():
    assert LAMBDAS[best_strength(np.zeros((1, 5)), LAMBDAS)] == 0
    assert LAMBDAS[best_strength(np.array([[5.0, 5, 0, 5, 5]]), LAMBDAS)] == 1
    assert LAMBDAS[best_strength(np.array([[5.0, np.nan, 0, -1, 5]]), LAMBDAS)] == 2


def test_weights_are_repeats():
    counts = RNG.integers(0, 3, 12)
    counts[:2] = 1
    repeated = np.repeat(RATINGS, counts, axis=-1)
    by_weight = faithfulness(RATINGS, LAMBDAS, counts[None].astype(float))[0]
    np.testing.assert_allclose(by_weight, faithfulness(repeated, LAMBDAS, once(counts.sum()))[0])
    acts = RNG.standard_normal((7, 5, 12))
    np.testing.assert_allclose(
        activation_change(acts, LAMBDAS, counts[None].astype(float)),
        activation_change(np.repeat(acts, counts, -1), LAMBDAS, once(counts.sum())),
    )


def test_activation_change_is_paired_by_prompt():
    acts = RNG.standard_normal((7, 5, 12))
    change = activation_change(acts, LAMBDAS, once(12))[0]
    expected = np.array([[np.mean(a - row[2]) for a in row] for row in acts])
    np.testing.assert_allclose(change, expected, atol=1e-12)
    assert (change[:, 2] == 0).all()


def test_held_out_strengths_are_not_flattered_by_chance():
    """Ratings that no strength changes: eq. 5 is above 0, its held-out form is not."""
    noise = RNG.choice(np.array([0, 2], np.int8), (6000, 7, 16), p=[0.8, 0.2])
    lambdas = np.array([-50.0, -10, -1, 0, 1, 10, 50])
    flattered = np.nanmean(faithfulness(noise, lambdas, once(16))[0])
    honest = np.nanmean(held_out(noise, lambdas, once(16)))
    assert flattered > 10 and abs(honest) < 1.2
    effect = noise.copy()
    effect[:, 5] = RNG.choice(np.array([0, 2], np.int8), (6000, 16), p=[0.2, 0.8])
    assert np.nanmean(held_out(effect, lambdas, once(16))) == pytest.approx(75, abs=4)
