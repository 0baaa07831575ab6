"""Washouts against what they claim."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.verbalize import BARE, Background, Washout
from atlas_jax.verbalize.decoding import Rule, combine
from atlas_jax.verbalize.washout import mix_at_angle, streams, unit

RNG = np.random.default_rng(0)
D = 20
BANK = Background((RNG.standard_normal((400, D)) + 2.0 * np.ones(D)).astype(np.float32), {})
U = RNG.standard_normal((9, D))


def score(log_p, **rule):
    return np.asarray(combine(jax.nn.log_softmax(jnp.asarray(log_p, jnp.float32)), Rule(**rule)))


@pytest.mark.parametrize("angle", [10.0, 45.0, 90.0])
def test_the_angle_is_realised_for_every_direction(angle):
    made = mix_at_angle(U, 5 * BANK.direction, angle)
    np.testing.assert_allclose(made @ BANK.direction, math.cos(math.radians(angle)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    np.testing.assert_allclose(mix_at_angle(3 * U, BANK.direction, angle), made)
    assert (np.linalg.norm(mix_at_angle(-U, BANK.direction, angle) - made, axis=1) > 0.1).all()


def test_the_ends_of_the_angle():
    np.testing.assert_allclose(
        mix_at_angle(U, BANK.direction, 0.0), np.tile(BANK.direction, (9, 1)), atol=1e-12
    )
    apart = U - np.outer(U @ BANK.direction, BANK.direction)
    np.testing.assert_allclose(mix_at_angle(U, BANK.direction, 90.0), unit(apart), atol=1e-12)


def test_the_natural_angle_is_that_of_the_bank():
    u = unit(BANK.rows.astype(float))
    mean = np.linalg.norm(u.mean(0))
    assert BANK.angle == pytest.approx(math.degrees(math.acos(mean)))
    # Unit rows: E cos(h, b) = ||b|| and E ||h - b||^2 = 1 - ||b||^2.
    assert (u @ BANK.direction).mean() == pytest.approx(mean)
    assert ((u - BANK.mean) ** 2).sum(1).mean() == pytest.approx(1 - mean**2)
    auto, count = streams(U, Washout(), BANK)
    assert auto.shape == (9, 1, D) and count == 1
    np.testing.assert_allclose(auto[:, 0] @ BANK.direction, mean)
    assert BANK.about()["cosine_to_raw_mean"] > 0.99


def test_a_weight_realises_another_angle_for_each_direction():
    made, _ = streams(U, Washout(weight=0.5), BANK)
    cosines = made[:, 0] @ BANK.direction
    assert np.ptp(cosines) > 0.05
    bare, count = streams(U, BARE, None)
    np.testing.assert_allclose(bare[:, 0], unit(U))
    assert count == 1


def test_a_verbalizer_that_reads_near_the_background_only():
    """Bare directions give its quirk, those at a small angle their word; it breaks in between."""
    words, base = 8, np.eye(D)[0]
    codes = np.linalg.qr(RNG.standard_normal((D - 1, words)))[0].T
    codes = np.c_[np.zeros(words), codes]

    def reads(v):
        gate = 1 / (1 + math.exp(-12 * (v @ base - 0.8)))
        apart = v - (v @ base) * base
        logits = 9 * gate * (codes @ apart) / np.linalg.norm(apart)
        return int(np.argmax([*logits, 9 * (1 - gate) + 1]))

    rows = Background(np.tile(base, (4, 1)).astype(np.float32) + 1e-3, {})
    said = [reads(v) for v in streams(codes, BARE, rows)[0][:, 0]]
    assert said == [words] * words
    said = [reads(v) for v in mix_at_angle(codes, base, 14.0)]
    assert said == list(range(words))
    assert [reads(v) for v in mix_at_angle(codes, base, 60.0)] == [words] * words


def test_subtracting_logits_takes_an_additive_quirk_away_and_only_then():
    signal, other = RNG.standard_normal(30), 0.1 * RNG.standard_normal(30)
    quirk = np.zeros(30)
    quirk[7] = 6.0
    both = np.stack([signal + quirk, other + quirk])[None]

    def left(omega):
        found = score(both, omega=omega, alpha=1e-30)[0]
        clean = score(np.stack([signal, other])[None], omega=omega, alpha=1e-30)[0]
        found, clean = found - found[0], clean - clean[0]  # up to a constant
        return found[7] - clean[7]

    assert left(1.0) == pytest.approx(0, abs=1e-4)
    assert left(0.5) == pytest.approx(3, abs=1e-4)
    assert left(0.0) == pytest.approx(6, abs=1e-4)


def test_the_plausibility_mask_and_the_identities_of_subtraction():
    log_p = RNG.standard_normal((4, 2, 30)) * 3
    p = np.exp(log_p[:, 0] - log_p[:, 0].max(axis=1, keepdims=True))
    found = score(log_p, omega=1.0, alpha=0.1)
    np.testing.assert_array_equal(np.isfinite(found), p >= 0.1)
    same = np.repeat(log_p[:, :1], 2, axis=1)
    uniform = score(same, omega=1.0, alpha=0.1)
    np.testing.assert_allclose(uniform[np.isfinite(uniform)], 0, atol=1e-5)
    plain = score(log_p[:, :1])
    np.testing.assert_allclose(plain, jax.nn.log_softmax(log_p[:, 0]), atol=1e-5)
    zero = score(log_p, omega=0.0, alpha=1e-30)
    np.testing.assert_allclose(zero, plain, atol=1e-5)


def test_nothing_is_subtracted_within_the_scaffold():
    log_p = np.zeros((1, 2, 5))
    log_p[0, 0, 3] = log_p[0, 1, 3] = 4.0  # a closing tag that both streams expect
    log_p[0, 0, 1] = 3.0
    assert score(log_p, omega=1.0).argmax() == 1
    assert score(log_p, omega=1.0, structural=(3,)).argmax() == 3


def test_an_ensemble_cancels_what_contexts_bring_in():
    """Additive logits: exact at any number of members, and without pairs the variance is 1 / N."""
    signal, contexts = RNG.standard_normal(30), 2 * RNG.standard_normal((2048, 30))

    def ensemble(index, omega):
        wanted, against = signal + contexts[index], contexts[index]
        found = score(
            np.concatenate([wanted, against])[None],
            count_for=len(index),
            omega=omega,
            alpha=1e-30,
        )[0]
        return found - found.mean()

    for count in (1, 5):
        found = ensemble(RNG.choice(2048, count), 1.0)
        np.testing.assert_allclose(found, signal - signal.mean(), atol=1e-4)
    spread = []
    for count in (2, 8, 32):
        draws = [ensemble(RNG.choice(2048, count), 0.0) for _ in range(60)]
        spread.append(np.var(draws, axis=0).mean())
    slope = np.polyfit(np.log([2, 8, 32]), np.log(spread), 1)[0]
    assert slope == pytest.approx(-1, abs=0.2)
    index = RNG.choice(2048, 6)
    np.testing.assert_allclose(ensemble(index, 0.7), ensemble(index[::-1], 0.7), atol=1e-5)


def test_members_are_the_same_for_every_direction_and_turned_by_the_angle():
    wash = Washout(angle=30.0, members=5, omega=1.0)
    made, count = streams(U, wash, BANK)
    assert made.shape == (9, 10, D) and count == 5
    members = made[0, 5:]
    np.testing.assert_array_equal(made[4, 5:], members)
    inner = np.einsum("nsd,sd->ns", made[:, :5], members)
    np.testing.assert_allclose(inner, math.cos(math.radians(30)))
    alone, _ = streams(U, Washout(angle=30.0, members=5), BANK)
    assert alone.shape == (9, 5, D)
    twins = Background(np.tile(BANK.rows[:1], (6, 1)), {})
    ensemble, _ = streams(U, Washout(angle=30.0, members=3), twins)
    single, _ = streams(U, Washout(angle=30.0), twins)
    np.testing.assert_allclose(ensemble, np.repeat(single, 3, axis=1), atol=1e-6)


def test_what_is_subtracted_may_be_random_directions_at_the_same_angle():
    made, count = streams(U, Washout(angle=30.0, omega=1.0, against="random"), BANK)
    assert count == 1 and made.shape[1] > 2
    np.testing.assert_allclose(made @ BANK.direction, math.cos(math.radians(30)))
    plain, _ = streams(U, Washout(angle=30.0, omega=1.0), BANK)
    np.testing.assert_allclose(plain[:, 1], np.tile(BANK.direction, (9, 1)))


def test_wrong_washouts_are_refused(tmp_path):
    with pytest.raises(InputError, match="number 1 has cosine"):
        mix_at_angle(np.stack([U[0], BANK.direction]), BANK.direction, 14.0)
    with pytest.raises(InputError, match="Expected a background"):
        streams(U, Washout(), None)
    with pytest.raises(InputError, match="background of width 7"):
        streams(RNG.standard_normal((2, 7)), Washout(), BANK)
    with pytest.raises(InputError, match="not zero"):
        streams(np.zeros((1, D)), BARE, None)
    for bad in ({"angle": 91}, {"angle": "natural"}, {"omega": 2}, {"weight": 0.0}):
        with pytest.raises(InputError, match="Expected"):
            Washout(**bad)
    with pytest.raises(InputError, match="at most 400 members"):
        streams(U, Washout(members=401), BANK)
    again = Background.load(BANK.save(tmp_path / "b.safetensors"))
    np.testing.assert_array_equal(again.rows, BANK.rows)
