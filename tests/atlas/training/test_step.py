"""A step: gradients against dense ones, the three activations, dead features, dtypes, devices."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from atlas_jax.atlas.training.activations import CHOOSERS, batch_top_k, jumprelu, threshold_gradient
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.slots import encode_all, gradient, product, reconstruct
from atlas_jax.atlas.training.state import Weights, init
from atlas_jax.atlas.training.step import revive, update
from atlas_jax.parallel import make_mesh

D, F, N = 32, 96, 64
RECIPE = Recipe(n_features=F, k=3, cap=F, batch=N, rate=3e-3, dead_after=2000)

# Dead after 300 tokens of silence: the auxiliary loss is at work on most steps.
TRAINED = replace(RECIPE, cap=0, batch=256, dead_after=300)


def batch(seed=0, n=N):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32))


def f64(*arrays):
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


@pytest.mark.parametrize("architecture", CHOOSERS)
def test_gradient_is_that_of_the_dense_loss_in_torch(architecture):
    recipe = replace(RECIPE, architecture=architecture)
    x, w = batch(), init(D, recipe, 10, batch(1)).weights
    z = encode_all(x, w.encoder, w.b_enc)
    values, indices = CHOOSERS[architecture](w, z, recipe, None)
    error = x - reconstruct(w.decoder, w.b_dec, values, indices)
    g = error * (-2.0 / error.size)
    got = [*gradient(x, g, w.decoder, values, indices)[:3], jnp.sum(g, 0)]

    encoder, b_enc, decoder, b_dec = f64(w.encoder, w.b_enc, w.decoder, w.b_dec)
    inputs = torch.tensor(np.asarray(x, np.float64))
    dense = torch.relu(inputs @ encoder.T + b_enc)
    active = np.zeros((N, F), bool)
    rows, slots = np.nonzero(np.asarray(values))
    active[rows, np.asarray(indices)[rows, slots]] = True
    code = dense * torch.tensor(active)
    loss = ((inputs - code @ decoder - b_dec) ** 2).mean()
    loss.backward()
    for a, b in zip(got, (encoder, b_enc, decoder, b_dec), strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), atol=2e-6)
    np.testing.assert_allclose(float(jnp.mean(error**2)), loss.item(), rtol=1e-5)


def test_top_k_keeps_k_of_each_token():
    recipe = replace(RECIPE, architecture="top_k", cap=0)
    w = init(D, recipe, 10).weights
    z = encode_all(batch(), w.encoder, w.b_enc)
    values, indices = CHOOSERS["top_k"](w, z, recipe, None)
    wanted = np.sort(np.maximum(np.asarray(z), 0), 1)[:, ::-1][:, :3]
    assert values.shape == (N, 3)
    np.testing.assert_allclose(values, wanted, rtol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(np.asarray(z), np.asarray(indices), 1), wanted)


def test_batch_top_k_keeps_k_per_token_on_average():
    w = init(D, RECIPE, 10).weights
    z = encode_all(batch(), w.encoder, w.b_enc)
    values = np.asarray(batch_top_k(w, z, RECIPE, None)[0])
    wanted = np.sort(
        np.maximum(np.asarray(batch(), np.float64) @ np.asarray(w.encoder).T, 0).ravel()
    )
    assert (values > 0).sum() == 3 * N
    assert len(set((values > 0).sum(1))) > 1  # tokens differ
    np.testing.assert_allclose(np.sort(values[values > 0]), wanted[-3 * N :], rtol=1e-5)


def test_jumprelu_keeps_what_exceeds_its_threshold():
    recipe = replace(RECIPE, architecture="jumprelu")
    w = init(D, recipe, 10, batch(1)).weights
    theta = np.random.default_rng(0).uniform(0.5, 1.5, F).astype(np.float32)
    w = replace(w, log_threshold=jnp.log(theta))
    z = encode_all(batch(), w.encoder, w.b_enc)
    values, indices = jumprelu(w, z, recipe, None)
    got = np.zeros((N, F), np.float32)
    np.put_along_axis(got, np.asarray(indices), np.asarray(values), 1)
    np.testing.assert_array_equal(got, np.where(np.asarray(z) > theta, z, 0))


def test_jumprelu_starts_at_its_aim():
    recipe = replace(RECIPE, architecture="jumprelu", k=5)
    w = init(D, recipe, 10, batch(n=512)).weights
    z = encode_all(batch(n=512), w.encoder, w.b_enc)
    assert float((jumprelu(w, z, recipe, None)[0] > 0).sum(1).mean()) == pytest.approx(5, abs=0.1)


class _Jump(torch.autograd.Function):
    """Equations 11 and 12 of Rajamanoharan et al. 2024, as written: values and steps."""

    @staticmethod
    def forward(ctx, z, theta, width):
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return z * (z > theta), (z > theta).to(z)

    @staticmethod
    def backward(ctx, d_value, d_step):
        z, theta = ctx.saved_tensors
        kernel = ((z - theta).abs() < ctx.width / 2).to(z) / ctx.width
        return d_value * (z > theta), -(kernel * (theta * d_value + d_step)).sum(0), None


def test_threshold_gradient_is_the_straight_through_one():
    recipe = replace(RECIPE, architecture="jumprelu", bandwidth=0.4)
    x, w = batch(), init(D, recipe, 10, batch(1)).weights
    z = encode_all(x, w.encoder, w.b_enc)
    values, indices = jumprelu(w, z, recipe, None)
    error = x - reconstruct(w.decoder, w.b_dec, values, indices)
    inner = gradient(x, error * (-2.0 / error.size), w.decoder, values, indices)[3]
    l0 = jnp.sum((values > 0).astype(jnp.float32)) / N + 1.5  # off its aim, as if on other devices
    got = threshold_gradient(w.log_threshold, z, indices, inner, l0, jnp.float32(0.7), recipe, N)

    log_theta, decoder = f64(w.log_threshold, w.decoder)
    inputs = torch.tensor(np.asarray(x, np.float64))
    f, steps = _Jump.apply(torch.tensor(np.asarray(z, np.float64)), log_theta.exp(), 0.4)
    loss = ((inputs - f @ decoder - torch.tensor(np.asarray(w.b_dec))) ** 2).mean()
    loss = loss + 0.7 * ((steps.sum(1).mean() + 1.5) / recipe.k - 1) ** 2
    loss.backward()
    assert np.abs(log_theta.grad).max() > 1e-3
    np.testing.assert_allclose(got, log_theta.grad.numpy(), atol=1e-6)


def test_auxiliary_loss_reaches_silent_features_only():
    recipe = replace(RECIPE, aux_features=12, aux_k=4, aux_weight=0.5)
    x, weights = batch(), init(D, recipe, 10).weights
    dead = np.array([3, 17, 40, 41, 80, 95])
    silent = jnp.zeros(F, jnp.int32).at[dead].set(recipe.dead_after + 1)
    error = batch(3)
    got = revive(weights, x, error, jnp.sum(error**2), silent, recipe)
    live = np.setdiff1d(np.arange(F), dead)
    assert not np.asarray(got.decoder)[live].any() and not np.asarray(got.encoder)[live].any()

    encoder, b_enc, decoder = f64(weights.encoder[dead], weights.b_enc[dead], weights.decoder[dead])
    inputs, e = (torch.tensor(np.asarray(a, np.float64)) for a in (x, error))
    z = torch.relu(inputs @ encoder.T + b_enc)
    least = z.detach().topk(4, dim=1).values[:, -1:]
    loss = 0.5 * ((e - (z * (z >= least)) @ decoder) ** 2).sum() / (e**2).sum()
    loss.backward()
    for a, b in ((got.encoder, encoder), (got.b_enc, b_enc), (got.decoder, decoder)):
        np.testing.assert_allclose(np.asarray(a)[dead], b.grad.numpy(), atol=2e-6)


def test_auxiliary_loss_revives_features():
    r = np.random.default_rng(0)
    dictionary = r.normal(size=(64, D))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    dead = {}
    for weight in (0.0, 0.5):
        recipe = replace(RECIPE, aux_weight=weight, cap=6, batch=256)
        state = init(D, recipe, 150)
        # Fewer features than the data has directions are left alive; the others have to come back.
        low = jnp.where(jnp.arange(F) < 64, -1.0, 0.0)
        state = replace(state, weights=replace(state.weights, b_enc=low))
        numbers = {}
        for step in range(150):
            draw = np.random.default_rng(step)
            codes = np.zeros((256, 64))
            for _ in range(3):
                codes[np.arange(256), draw.integers(0, 64, 256)] += draw.uniform(0.5, 2, 256)
            x = 3 * codes @ dictionary
            state, numbers = update(state, jnp.asarray(x.astype(np.float32)), recipe, 150)
        dead[weight] = float(numbers["dead"])
    assert dead[0.5] < dead[0.0] / 2


@lru_cache
def run(recipe, steps=6, mesh=None):
    state = init(D, recipe, steps, batch(9, 256))
    low = jnp.where(jnp.arange(F) < 20, -9.0, 0.0)  # twenty features are dead from the start
    state = replace(state, weights=replace(state.weights, b_enc=low))
    for step in range(steps):
        state, numbers = update(state, batch(step, 256), recipe, steps, mesh)
    return state, {key: float(value) for key, value in numbers.items()}


@pytest.mark.parametrize("architecture", CHOOSERS)
def test_eight_devices_are_one(architecture):
    recipe = replace(TRAINED, architecture=architecture)
    one, numbers = run(recipe)
    eight, again = run(recipe, mesh=make_mesh())
    assert numbers["dead"] > 0
    for key, value in numbers.items():
        assert again[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    np.testing.assert_array_equal(one.silent, eight.silent)
    for a, b in zip(jax.tree.leaves(one.weights), jax.tree.leaves(eight.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("architecture", ["batch_top_k", "jumprelu"])
def test_bfloat16_multiplies_and_float32_keeps(architecture):
    recipe = replace(TRAINED, architecture=architecture)
    wide, numbers = run(recipe)
    narrow, again = run(replace(recipe, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.weights)} == {jnp.dtype("float32")}
    assert again["loss"] == pytest.approx(numbers["loss"], rel=0.02)
    assert not np.array_equal(narrow.weights.encoder, wide.weights.encoder)
    text = str(
        jax.make_jaxpr(product)(jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros((3, 4), jnp.bfloat16))
    )
    assert "preferred_element_type=float32" in text and "HIGHEST" in text


def test_decoder_rows_keep_length_one():
    state, _ = run(TRAINED)
    np.testing.assert_allclose(np.linalg.norm(state.weights.decoder, axis=1), 1, rtol=1e-6)
    assert isinstance(state.weights, Weights) and int(state.step) == 6
