"""Training: gradients, a planted dictionary, resuming to the same bits, folding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas import train
from atlas_jax.atlas.batch_top_k import Recipe, choose, gradient, init, reconstruct, revive
from atlas_jax.atlas.sae import decode, encode
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.errors import InputError

RECIPE = Recipe(n_features=96, k=3, cap=8, batch=256, epochs=40, rate=3e-3, dead_after=2000)


def planted(contexts: int = 640, length: int = 17, d: int = 32, n: int = 64, seed: int = 0):
    """Sparse positive codes of a known dictionary, shifted and scaled as real activations are."""
    r = np.random.default_rng(seed)
    rows = contexts * (length - 1)
    dictionary = r.normal(size=(n, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((rows, n))
    for _ in range(3):
        codes[np.arange(rows), r.integers(0, n, rows)] += r.uniform(0.5, 2, rows)
    x = 7 * codes @ dictionary + 5 * r.normal(size=d)
    tokens = r.integers(0, 50, (contexts, length)).astype(np.int32)
    return TokenActivations(x.astype(np.float16), tokens), dictionary


@pytest.fixture(scope="module")
def data():
    return planted()


def test_gradient_is_that_of_the_dense_loss(data):
    acts, _ = data
    x = jnp.asarray((acts.acts[:64].astype(np.float32) - 1) / 7)
    weights = init(32, RECIPE, 10).weights
    values, indices, smallest = choose(weights, x, RECIPE.k, 96)

    def dense(w):
        z = jax.nn.relu(x @ w.encoder.T + w.b_enc[None])
        f = jnp.where(z >= smallest, z, 0.0)
        return jnp.mean((x - f @ w.decoder - w.b_dec[None]) ** 2)

    got, error = gradient(weights, x, values, indices)
    wanted = jax.grad(dense)(weights)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(error, x - reconstruct(weights, values, indices), atol=1e-6)


def test_batch_top_k_keeps_k_per_token_on_average(data):
    acts, _ = data
    x = jnp.asarray(acts.acts[:64].astype(np.float32))
    weights = init(32, RECIPE, 10).weights
    values, indices, smallest = choose(weights, x, 3, 96)
    z = np.maximum(np.asarray(x, np.float64) @ np.asarray(weights.encoder, np.float64).T, 0)
    wanted = np.sort(z.ravel())[-3 * 64 :]
    got = np.asarray(values)
    assert (got > 0).sum() == 3 * 64
    np.testing.assert_allclose(np.sort(got[got > 0]), wanted, rtol=1e-5)
    np.testing.assert_allclose(smallest, wanted[0], rtol=1e-5)
    rows, slots = np.nonzero(got)
    np.testing.assert_allclose(
        got[rows, slots], z[rows, np.asarray(indices)[rows, slots]], rtol=1e-4
    )


@pytest.mark.parametrize("per_dimension", [False, True])
def test_recovers_a_planted_dictionary(data, tmp_path, per_dimension):
    acts, dictionary = data
    recipe = RECIPE if not per_dimension else Recipe(**{**vars(RECIPE), "per_dimension": True})
    sae = train.train_atlas(acts, tmp_path, "blocks.0.hook_resid_post", "m", recipe, heldout=64)
    rows = train.training_rows(acts, 64)
    x = jnp.asarray(acts.acts[rows:].astype(np.float32))
    features = encode(sae, x)
    error = np.asarray(x - decode(sae, features), np.float64)
    fve = 1 - (error**2).sum() / np.square(np.asarray(x) - np.asarray(x).mean(0)).sum()
    found = np.abs(dictionary @ np.asarray(sae.W_dec).T).max(1)
    assert np.mean(found > 0.95) > 0.9
    assert fve > 0.9
    assert 2 < float((features > 0).sum(1).mean()) < 4
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
    assert sae.threshold is not None and bool((sae.threshold > 0).all())


def test_auxiliary_loss_reaches_silent_features_only(data):
    acts, _ = data
    x = jnp.asarray((acts.acts[:64].astype(np.float32) - 1) / 7)
    recipe = Recipe(**{**vars(RECIPE), "aux_features": 12, "aux_k": 4, "aux_weight": 0.5})
    weights = init(32, recipe, 10).weights
    dead = np.array([3, 17, 40, 41, 80, 95])
    silent = jnp.zeros(96, jnp.int32).at[dead].set(recipe.dead_after + 1)
    error = jnp.asarray(np.random.default_rng(3).normal(size=x.shape).astype(np.float32))
    got = revive(weights, x, error, silent, recipe)
    live = np.setdiff1d(np.arange(96), dead)
    assert not np.asarray(got.decoder)[live].any() and not np.asarray(got.encoder)[live].any()

    def loss(decoder, b_enc):
        z = np.asarray(x, np.float64) @ np.asarray(weights.encoder, np.float64)[dead].T
        z = np.maximum(z + b_enc[dead], 0)
        z = np.where(z >= np.sort(z, 1)[:, -4, None], z, 0)
        e = np.asarray(error, np.float64)
        return 0.5 * ((e - z @ decoder[dead]) ** 2).sum() / (e**2).sum()

    decoder, bias = np.asarray(weights.decoder, np.float64), np.zeros(96)
    step = np.random.default_rng(4).normal(size=decoder.shape)
    slope = (loss(decoder + 1e-5 * step, bias) - loss(decoder - 1e-5 * step, bias)) / 2e-5
    assert slope == pytest.approx(float((np.asarray(got.decoder) * step).sum()), rel=1e-3)
    push = np.eye(96)[17]
    slope = (loss(decoder, bias + 1e-6 * push) - loss(decoder, bias - 1e-6 * push)) / 2e-6
    assert slope == pytest.approx(float(got.b_enc[17]), rel=1e-2, abs=1e-6)


def test_auxiliary_loss_revives_features(data):
    acts, _ = data
    rows = np.arange(train.training_rows(acts, 0))
    mean, scale = train.statistics(acts.acts, rows, False)
    dead = {}
    for weight in (0.0, 0.5):
        recipe = Recipe(**{**vars(RECIPE), "aux_weight": weight})
        state = init(32, recipe, 300)
        # Fewer features than the data has directions are left alive; the others have to come back.
        low = jnp.where(jnp.arange(96) < 64, -1.0, 0.0)
        w = state.weights
        weights = train.Weights(w.encoder, low, w.decoder, w.b_dec)
        state = train.State(weights, state.optimizer, state.silent, state.step)
        numbers = {}
        for step in range(300):
            x = train.standardise(acts.acts[train.rows_of(step, rows, recipe)], mean, scale)
            state, numbers = train.update(state, x, recipe, 300)
        dead[weight] = float(numbers["dead"])
    assert dead[0.5] < dead[0.0] / 2


def test_resumes_to_the_same_bits(data, tmp_path, monkeypatch):
    acts, _ = data
    recipe = Recipe(**{**vars(RECIPE), "epochs": 2})
    whole = train.train_atlas(acts, tmp_path / "whole", "s", "m", recipe, checkpoint_steps=10)
    real, calls = train.update, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 13:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train_atlas(acts, tmp_path / "part", "s", "m", recipe, checkpoint_steps=5)
    assert (tmp_path / "part" / "training.safetensors").exists()
    monkeypatch.setattr(train, "update", real)
    with pytest.raises(InputError, match="another"):
        train.train_atlas(acts, tmp_path / "part", "elsewhere", "m", recipe)
    again = train.train_atlas(acts, tmp_path / "part", "s", "m", recipe)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "part" / "training.safetensors").exists()


def test_folding_changes_nothing(data):
    acts, _ = data
    mean, scale = train.statistics(acts.acts, np.arange(len(acts.acts)), True)
    weights = init(32, RECIPE, 10).weights
    raw = acts.acts[:50]
    x = train.standardise(raw, mean, scale)
    sae = train.fold(weights, mean, scale, 0.4)
    z = np.asarray(x, np.float64) @ np.asarray(weights.encoder, np.float64).T
    f = z * (z > 0.4)
    wanted = f @ np.asarray(weights.decoder, np.float64) / scale + mean
    got = decode(sae, encode(sae, jnp.asarray(raw.astype(np.float32))))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_too_few_activations(data, tmp_path):
    acts, _ = data
    with pytest.raises(InputError, match="at least 256 training activations"):
        train.train_atlas(acts, tmp_path, "s", "m", RECIPE, heldout=639)
