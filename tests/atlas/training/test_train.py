"""Whole trainings: a planted dictionary, resuming to the same bits, SAELens, bad input."""

import json
import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from atlas_jax.atlas import load_saelens
from atlas_jax.atlas.sae import decode, encode
from atlas_jax.atlas.sinks import norm_limit
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.atlas.training import ARCHITECTURES, train
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.standard import fold, measure
from atlas_jax.atlas.training.state import init
from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh

RECIPE = Recipe(n_features=96, k=3, cap=8, batch=256, epochs=40, rate=3e-3, dead_after=2000)
SHORT = replace(RECIPE, epochs=2, buffer=3000)
SITE = "blocks.0.hook_resid_post"


@pytest.mark.parametrize(
    ("architecture", "per_dimension"),
    [("batch_top_k", False), ("batch_top_k", True), ("top_k", True), ("jumprelu", False)],
)
def test_recovers_a_planted_dictionary(data, tmp_path, architecture, per_dimension):
    acts, dictionary = data
    recipe = replace(RECIPE, architecture=architecture, per_dimension=per_dimension)
    sae = train.train_atlas(acts, tmp_path, SITE, "m", recipe, heldout=64, half=False)
    x = acts.read(np.arange(576, 640)).astype(np.float32)
    x = jnp.asarray(x[np.linalg.norm(x, axis=1) < norm_limit(x)])
    features = encode(sae, x)
    error = np.asarray(x - decode(sae, features), np.float64)
    fve = 1 - (error**2).sum() / np.square(np.asarray(x) - np.asarray(x).mean(0)).sum()
    found = np.abs(dictionary @ np.asarray(sae.W_dec).T).max(1)
    found /= np.linalg.norm(sae.W_dec, axis=1).mean()
    assert np.mean(found > 0.95) > 0.9
    assert fve > 0.9
    assert 2 < float((features > 0).sum(1).mean()) < 4
    assert sae.architecture == ("topk" if architecture == "top_k" else "jumprelu")
    if sae.threshold is not None:
        np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
        assert bool((sae.threshold > 0).all())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resumes_to_the_same_bits(data, tmp_path, monkeypatch, architecture):
    acts, _ = data
    recipe = replace(SHORT, architecture=architecture)
    whole = train.train_atlas(acts, tmp_path / "whole", SITE, "m", recipe, checkpoint_steps=10)
    real, calls = train.update, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 13:
            raise Killed
        return real(*args)

    monkeypatch.setattr(train, "update", interrupted)
    with pytest.raises(Killed):
        train.train_atlas(acts, tmp_path / "part", SITE, "m", recipe, checkpoint_steps=5)
    assert (tmp_path / "part" / "training.safetensors").exists()
    monkeypatch.setattr(train, "update", real)
    with pytest.raises(InputError, match="another"):
        train.train_atlas(acts, tmp_path / "part", "blocks.1.hook_resid_post", "m", recipe)
    again = train.train_atlas(acts, tmp_path / "part", SITE, "m", recipe)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "part" / "training.safetensors").exists()
    logs = [json.loads((tmp_path / n / "training.json").read_text()) for n in ("whole", "part")]
    assert logs[0] == logs[1] and len(logs[0]["losses"]) > 0


def test_a_finished_training_is_loaded(data, tmp_path, monkeypatch):
    acts, _ = data
    first = train.train_atlas(acts, tmp_path, SITE, "m", SHORT, half=False)
    monkeypatch.setattr(train, "update", None)
    again = train.train_atlas(acts, tmp_path, SITE, "m", SHORT, half=False)
    np.testing.assert_array_equal(first.W_dec, again.W_dec)
    with pytest.raises(InputError, match=r"Expected seed=1 in .*, it holds .* 0\.") as caught:
        train.train_atlas(acts, tmp_path, SITE, "m", replace(SHORT, seed=1))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_one_line(data, tmp_path):
    acts, _ = data
    (tmp_path / "training.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="is damaged") as caught:
        train.train_atlas(acts, tmp_path, SITE, "m", SHORT)
    assert "\n" not in str(caught.value)


def test_a_mesh_trains_the_same_atlas(data, tmp_path):
    acts, _ = data
    recipe = replace(SHORT, epochs=0.5)
    one = train.train_atlas(acts, tmp_path / "one", SITE, "m", recipe, half=False)
    mesh = make_mesh()
    eight = train.train_atlas(acts, tmp_path / "eight", SITE, "m", recipe, half=False, mesh=mesh)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="8 devices can share, got 250"):
        train.train_atlas(acts, tmp_path / "odd", SITE, "m", replace(recipe, batch=250), mesh=mesh)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sae_lens_loads_what_is_saved(data, tmp_path, architecture):
    import sae_lens

    logging.disable(logging.NOTSET)
    acts, _ = data
    recipe = replace(SHORT, architecture=architecture)
    train.train_atlas(acts, tmp_path, SITE, "gpt2", recipe)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    ours = load_saelens(tmp_path).sae
    x = acts.read(np.arange(20)).astype(np.float32)
    with torch.no_grad():
        code = theirs.encode(torch.tensor(x))
        back = theirs.decode(code).numpy()
    mine = encode(ours, jnp.asarray(x))
    assert 1 < (code.numpy() > 0).sum(1).mean() < 20
    np.testing.assert_allclose(mine, code.numpy(), rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(decode(ours, mine), back, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_changes_nothing(data, architecture):
    acts, _ = data
    recipe = replace(RECIPE, architecture=architecture, cap=0)
    content = acts.acts[np.abs(acts.acts[:, 0]) < 1000]
    standard = measure(content, True)
    raw = content[:50]
    x = standard(jnp.asarray(raw))
    weights = init(32, recipe, 10, x).weights
    sae = fold(weights, standard, recipe, 0.4)
    z = np.asarray(x, np.float64) @ np.asarray(weights.encoder, np.float64).T
    theta = {
        "batch_top_k": 0.4,
        "top_k": np.sort(z, 1)[:, -3, None] - 1e-6,
        "jumprelu": np.exp(np.asarray(weights.log_threshold or 0.0))
        if architecture != "jumprelu"
        else np.exp(np.asarray(weights.log_threshold)),
    }[architecture]
    f = z * (z > theta)
    back = f @ np.asarray(weights.decoder, np.float64) / np.asarray(standard.scale)
    got = decode(sae, encode(sae, jnp.asarray(raw.astype(np.float32))))
    np.testing.assert_allclose(got, back + np.asarray(standard.mean), rtol=1e-3, atol=1e-3)


def test_bad_activations_are_one_line(data, tmp_path):
    acts, _ = data
    with pytest.raises(InputError, match="at least 256 training activations"):
        train.train_atlas(acts, tmp_path, SITE, "m", RECIPE, heldout=639)
    constant = TokenActivations(np.ones_like(acts.acts), acts.tokens)
    with pytest.raises(InputError, match="finite and vary"):
        train.train_atlas(constant, tmp_path, SITE, "m", RECIPE)


def test_a_diverging_training_says_so(data, tmp_path):
    acts, _ = data
    with pytest.raises(InputError, match="use a smaller rate than") as caught:
        train.train_atlas(acts, tmp_path, SITE, "m", replace(SHORT, rate=1e38, warmup=0.0))
    assert "\n" not in str(caught.value)
