"""Every family against transformers on CPU in float32: logits, sites, padding, generation."""

import numpy as np
import torch

from atlas_jax.models import generate, points_of

NEW = 8


def every_site(model):
    points = points_of(model.arch)
    return [f"blocks.{layer}.{point}" for layer in range(model.arch.n_layers) for point in points]


def close(got, expected, site="logits"):
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(got), expected, atol=atol, err_msg=site)


def test_logits_and_every_site_of_padded_texts(family_pair, sentences):
    model, theirs = family_pair.ours, family_pair.theirs
    rows = model.tokenizer.encode_batch([sentences[1], sentences[5][:9], sentences[0]])
    assert len(rows[0]) > 18  # twice the longest sliding window
    length = max(map(len, rows)) + 3
    sites = every_site(model)
    reference = [theirs.run(row) for row in rows]
    assert set(reference[0][1]) == set(sites)
    for left in (False, True):
        tokens, mask = model.tokenizer.pad(rows, length, left=left)
        logits, acts = model(tokens, mask, taps=sites)
        assert list(acts) == sites
        assert all(np.isfinite(np.asarray(a)).all() for a in acts.values())
        for i, (expected, seen) in enumerate(reference):
            close(np.asarray(logits[i])[mask[i]], expected)
            for site in sites:
                assert acts[site].shape[-1] == model.width(site)
                close(np.asarray(acts[site][i])[mask[i]], seen[site], site)


def test_greedy_generation(family_pair, sentences):
    model = family_pair.ours
    prompts = [sentences[0], "The", sentences[1][:23]]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([model.tokenizer.encode_batch([prompt])[0]])
        out = family_pair.theirs.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )
        expected.append(model.tokenizer.decode(out[0, ids.shape[1] :].numpy()))
    assert generate(model, prompts, max_new_tokens=NEW) == expected
