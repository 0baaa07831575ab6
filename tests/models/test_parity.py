"""The decoder against transformers on CPU in float32: logits, every site, padding, precision."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from atlas_jax.activations.pool import POOLS
from atlas_jax.models import POINTS, load_model


def every_site(model):
    return [f"blocks.{layer}.{point}" for layer in range(model.arch.n_layers) for point in POINTS]


def test_logits_and_every_site_equal_transformers(pair, sentences):
    ids = pair.ours.tokenizer.encode_batch([sentences[1]])[0]
    assert len(ids) > 3 * 6  # longer than the sliding window
    expected, seen = pair.theirs.run(ids)
    tokens = np.array([ids], np.int32)
    sites = every_site(pair.ours)
    logits, acts = pair.ours(tokens, np.ones(tokens.shape, bool), taps=sites)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(logits[0]), expected, atol=1e-5 * np.abs(expected).max())
    assert list(acts) == sites
    for site in sites:
        scale = np.abs(seen[site]).max()
        assert acts[site].shape == (1, len(ids), pair.ours.width(site))
        np.testing.assert_allclose(
            np.asarray(acts[site][0]), seen[site], atol=1e-5 * scale, err_msg=site
        )


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_changes_nothing(pair, sentences, left):
    model = pair.ours
    rows = model.tokenizer.encode_batch([sentences[0], sentences[5][:9], sentences[3]])
    length = max(map(len, rows)) + 5
    tokens, mask = model.tokenizer.pad(rows, length, left=left)
    sites = every_site(model)
    logits, acts = model(tokens, mask, taps=sites)
    for i, row in enumerate(rows):
        expected, seen = pair.theirs.run(row)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(logits[i])[mask[i]], expected, atol=atol)
        for site in sites:
            atol = 1e-5 * np.abs(seen[site]).max()
            got = np.asarray(acts[site][i])[mask[i]]
            np.testing.assert_allclose(got, seen[site], atol=atol, err_msg=site)
    assert all(np.isfinite(np.asarray(a)).all() for a in acts.values())


def test_reading_stops_early_and_pools_inside(pairs, sentences):
    pair = pairs("tiny_gemma3")
    rows = pair.ours.tokenizer.encode_batch(list(sentences[:3]))
    tokens, mask = pair.ours.tokenizer.pad(rows, max(map(len, rows)))
    # Two sites of one point out of order, and none above layer 1.
    sites = ["blocks.1.mlp.hook_post", "blocks.0.hook_resid_post", "blocks.0.mlp.hook_post"]
    read = pair.ours.read(tokens, mask, sites)
    pooled = pair.ours.read(tokens, mask, sites, POOLS["max"])
    assert list(read) == list(pooled) == sites
    for i, row in enumerate(rows):
        _, seen = pair.theirs.run(row)
        for site in sites:
            atol = 1e-5 * np.abs(seen[site]).max()
            got = np.asarray(read[site][i])[mask[i]]
            np.testing.assert_allclose(got, seen[site], atol=atol, err_msg=site)
            best = seen[site][1:].max(axis=0)  # not over the first position
            np.testing.assert_allclose(np.asarray(pooled[site][i]), best, atol=atol, err_msg=site)


def test_scaled_rope_beyond_the_first_context(pairs, sentences):
    # Llama 3.1's rule tells the frequencies apart; linear scaling divides them all.
    for name, original in (("tiny_llama", 32), ("llama", 16), ("tiny_gemma3", 64)):
        pair = pairs(name)
        ids = pair.ours.tokenizer.encode_batch([" ".join(sentences)])[0]
        assert len(ids) > original
        expected, _ = pair.theirs.run(ids)
        tokens = np.array([ids], np.int32)
        logits, _ = pair.ours(tokens, np.ones(tokens.shape, bool))
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(logits[0]), expected, atol=atol, err_msg=name)


def test_bfloat16_is_as_near_to_float32_as_in_transformers(family_pair, sentences):
    pair, site = family_pair, "blocks.1.hook_resid_post"
    low = load_model(pair.folder, dtype="bfloat16")
    assert low.fingerprint != pair.ours.fingerprint
    ids = low.tokenizer.encode_batch([sentences[2]])[0]
    tokens = np.array([ids], np.int32)
    logits, acts = low(tokens, np.ones(tokens.shape, bool), taps=[site])
    assert acts[site].dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    expected, seen = pair.theirs.run(ids)
    theirs = AutoModelForCausalLM.from_pretrained(
        pair.folder, attn_implementation="eager", dtype=torch.bfloat16
    ).eval()
    with torch.no_grad():
        rounded = theirs(torch.tensor([ids])).logits[0].float().numpy()

    def error(got, exact):
        return np.linalg.norm(np.asarray(got) - exact) / np.linalg.norm(exact)

    assert 1e-3 < error(logits[0], expected) < min(0.05, 1.5 * error(rounded, expected))
    assert 1e-3 < error(acts[site][0].astype(jnp.float32), seen[site]) < 0.05


def test_one_executable_for_each_bucket(pairs, sentences):
    from atlas_jax.activations.batches import bucket
    from atlas_jax.models import language_model

    model = pairs("tiny_llama").ours
    rows = model.tokenizer.encode_batch([*sentences, "Two dogs", "The"])
    sites = ["blocks.1.mlp.hook_post", "blocks.0.hook_resid_pre"]
    lengths = {bucket(len(row)) for row in rows}
    assert 1 < len(lengths) < len({len(row) for row in rows})
    before = language_model._read._cache_size()
    for row in rows:
        tokens, mask = model.tokenizer.pad([row], bucket(len(row)))
        model.read(tokens, mask, sites, POOLS["max"])
    assert language_model._read._cache_size() == before + len(lengths)


def test_fingerprint_names_the_weights(pairs):
    first, second = pairs("tiny_llama").ours, pairs("tiny_llama_tied").ours
    assert first.fingerprint == load_model(pairs("tiny_llama").folder).fingerprint
    assert first.fingerprint != second.fingerprint
