"""Directions without a translation, against plain numpy and torch."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.steering import decoder_direction, difference_of_means, random_scores

DECODER = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
SAE = types.SimpleNamespace(W_dec=jnp.asarray(DECODER))


def test_decoder_rows_add_up():
    np.testing.assert_allclose(decoder_direction(SAE, [3]), DECODER[3], rtol=1e-6)
    both = decoder_direction(types.SimpleNamespace(sae=SAE), [1, 4], [2.0, -0.5])
    np.testing.assert_allclose(both, 2 * DECODER[1] - 0.5 * DECODER[4], rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "weights", "message"),
    [
        ([], None, "from 0 to 4"),
        ([5], None, "from 0 to 4"),
        ([-1], None, "from 0"),
        ([1], [1, 2], "1 weights"),
    ],
)
def test_unknown_features_are_refused(features, weights, message):
    with pytest.raises(InputError, match=message):
        decoder_direction(SAE, features, weights)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_difference_of_means_equals_torch(tiny_llama_tied, sentences, pool):
    model = load_model(tiny_llama_tied)
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_llama_tied, attn_implementation="eager", dtype=torch.float32
    ).eval()
    seen = []
    theirs.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0][0].double().numpy())
    )

    def mean(texts):
        seen.clear()
        with torch.no_grad():
            for ids in model.tokenizer.encode_batch(list(texts)):
                theirs(torch.tensor([ids]))
        return np.mean([a[-1] if pool == "last" else a[1:].mean(axis=0) for a in seen], axis=0)

    positive, negative = sentences[:4], sentences[4:]
    site = "blocks.1.mlp.hook_post"
    found = difference_of_means(model, positive, negative, [site, "blocks.0.hook_resid_post"], pool)
    expected = mean(positive) - mean(negative)
    np.testing.assert_allclose(found[site], expected, atol=2e-5 * np.abs(expected).max())
    assert found["blocks.0.hook_resid_post"].shape == (32,)
    swapped = difference_of_means(model, negative, positive, [site], pool)[site]
    np.testing.assert_allclose(swapped, -found[site], atol=1e-6)


def test_examples_that_cannot_be_read_are_refused(tiny_llama_tied):
    model = load_model(tiny_llama_tied)
    site = ["blocks.1.mlp.hook_post"]
    for positive, pool, message in (
        (["good"], "median", "pooling among"),
        ([], "last", "both sides"),
        ([""], "last", "two tokens, got ''"),
    ):
        with pytest.raises(InputError, match=message):
            difference_of_means(model, positive, ["bad"], site, pool)


def test_random_directions_have_the_norm_and_the_seed():
    a, b = random_scores(50, 2.5, seed=1), random_scores(50, 2.5, seed=1)
    np.testing.assert_array_equal(a, b)
    assert np.linalg.norm(a) == pytest.approx(2.5) and (a != random_scores(50, 2.5, 2)).any()
