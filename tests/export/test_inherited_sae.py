"""The inherited autoencoder: its equation in float64, rates met exactly, read by SAELens."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import sae_lens
import torch

from atlas_jax.atlas import SAE, Labels, load_atlas, save_saelens
from atlas_jax.atlas.sae import decode, encode
from atlas_jax.errors import InputError
from atlas_jax.export import calibrated_sae, export_sae, inherited_sae, match_rates
from atlas_jax.translate import Translation

RNG = np.random.default_rng(5)


def unit_rows(matrix):
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1)


def test_latents_read_and_write_the_scores_of_one_concept_queries(translation):
    sae = inherited_sae(translation)
    for k in (0, 4, 17):
        scores = translation.scores(np.eye(40, dtype=np.float32)[k])
        np.testing.assert_allclose(sae.W_enc[:, k], scores, atol=1e-6)
        np.testing.assert_allclose(sae.W_dec[k], scores, atol=1e-6)
    x = RNG.standard_normal((7, 56)).astype(np.float32)
    expected = np.maximum(x.astype(np.float64) @ unit_rows(translation.matrix), 0)
    np.testing.assert_allclose(encode(sae, jnp.asarray(x)), expected, atol=1e-5)


def test_procrustes_of_full_rank_loses_nothing_but_what_the_relu_takes():
    basis = np.linalg.qr(RNG.standard_normal((30, 12)))[0].T.astype(np.float32)
    sae = inherited_sae(Translation("procrustes", basis))
    x = RNG.standard_normal((5, 12)).astype(np.float32)
    # relu(z) - relu(-z) = z: the features of x and those of -x together give x back.
    both = decode(sae, encode(sae, jnp.asarray(x))) - decode(sae, encode(sae, jnp.asarray(-x)))
    np.testing.assert_allclose(both, x, atol=1e-5)


def test_rates_are_met_to_the_token(translation):
    rows = RNG.standard_normal((300, 56)).astype(np.float32)
    rates = RNG.uniform(0, 0.3, 40)
    rates[:3] = (0.0, 0.9, 1.0)
    sae = inherited_sae(translation)
    theta = match_rates(rows, np.asarray(sae.W_enc), rates)
    fired = (np.asarray(encode(inherited_sae(translation, theta), jnp.asarray(rows))) > 0).sum(0)
    live = np.setdiff1d(np.arange(3, 40), [4, 9])
    np.testing.assert_array_equal(fired[live], np.rint(rates[live] * 300))
    assert fired[0] <= 1 and (fired[[4, 9]] == 0).all() and (theta >= 0).all()
    positive = (rows.astype(np.float64) @ unit_rows(translation.matrix) > 0).sum(0)
    np.testing.assert_array_equal(fired[1:3], positive[1:3])


@pytest.fixture(scope="module")
def atlas(tiny_llama_tied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    decoder = jnp.asarray(RNG.standard_normal((40, 32)), jnp.float32)
    sae = SAE(decoder.T, jnp.zeros(40), decoder, jnp.zeros(32), jnp.full(40, 4.0), "jumprelu")
    save_saelens(sae, folder, site="blocks.0.hook_resid_post", model_name=str(tiny_llama_tied))
    Labels.of([(i, f"kind {i}") for i in range(40) if i != 7]).save(folder / "labels.jsonl")
    return load_atlas(folder)


def test_saelens_reads_the_calibrated_one(
    models, theirs, translation, atlas, sentences, ids, tiny_llama, tmp_path
):
    model, site = models["llama"], translation.meta["subject"]["site"]
    sae, card = calibrated_sae(translation, model, atlas, sentences)
    folder = export_sae(
        translation,
        tmp_path / "sae",
        sae=sae,
        labels=atlas.labels,
        model_name=str(tiny_llama),
        card=card,
    )
    found = sae_lens.SAE.load_from_disk(folder)
    assert found.cfg.metadata.hook_name == site and found.cfg.architecture() == "jumprelu"
    tokens = np.array([ids], np.int32)
    acts = np.asarray(model.read(tokens, np.ones_like(tokens, bool), [site])[site])
    with torch.no_grad():
        features = found.encode(torch.tensor(acts))
        back = found.decode(features).numpy()
    z = acts.astype(np.float64) @ unit_rows(translation.matrix)
    expected = np.where(z > np.asarray(sae.threshold, np.float64), z, 0)
    np.testing.assert_allclose(features.numpy(), expected, atol=2e-4)
    written = expected @ unit_rows(translation.matrix).T + np.asarray(sae.b_dec)
    np.testing.assert_allclose(back, written, atol=1e-3 * np.abs(back).max())
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert len(rows) == 39 and rows[3]["index"] == "3" and rows[3]["description"] == "kind 3"
    assert {"modelId", "layer", "typeName", "explanationModelName"} <= set(rows[0])
    assert Labels.load(folder / "labels.jsonl")[8] == ("kind 8",)
    saved = json.loads((folder / "card.json").read_text())
    assert saved["tokens"] == sum(
        len(row) - 1 for row in model.tokenizer.encode_batch(list(sentences))
    )
    again = load_atlas(folder)
    assert again.site == site and again.describe(3) == "kind 3"
    assert again.model.width(site) == 56


def test_the_rates_are_those_of_the_atlas(models, translation, atlas, sentences):
    model, site = models["llama"], translation.meta["subject"]["site"]
    sae, card = calibrated_sae(translation, model, atlas, sentences)

    def read(source, name):
        rows = []
        for ids in source.tokenizer.encode_batch(list(sentences)):
            tokens, mask = source.tokenizer.pad([ids], 64)
            rows.append(np.asarray(source.read(tokens, mask, [name])[name])[0, 1 : len(ids)])
        return np.concatenate(rows)

    rates = (read(atlas, atlas.feature_site) > 0).mean(0)
    rows = read(model, site)
    assert 0.01 < rates.mean() < 0.5 and len(rows) == card["tokens"]
    fired = np.asarray(encode(sae, jnp.asarray(rows))) > 0
    positive = (rows @ unit_rows(translation.matrix) > 0).sum(0)
    np.testing.assert_allclose(
        fired.sum(0), np.minimum(np.rint(rates * len(rows)), positive), atol=1
    )
    assert card["l0"] == pytest.approx(fired.sum(1).mean())
    unit = unit_rows(translation.matrix)
    left = rows - np.where(fired, rows @ unit, 0) @ unit.T
    np.testing.assert_allclose(np.asarray(sae.b_dec), left.mean(0), atol=1e-4)
    explained = 1 - np.square(left - left.mean(0)).sum() / np.square(rows - rows.mean(0)).sum()
    assert card["fve"] == pytest.approx(explained, abs=1e-3)
    assert calibrated_sae(translation, model, atlas, sentences, tokens=30)[1]["tokens"] == 30


def test_without_thresholds_and_with_the_labels_that_the_translation_knows(translation, tmp_path):
    labelled = translation.with_labels({2: "the sea"})
    folder = export_sae(labelled, tmp_path / "plain")
    assert sae_lens.SAE.load_from_disk(folder).cfg.architecture() == "standard"
    (row,) = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert (row["modelId"], row["index"], row["description"]) == ("tiny", "2", "the sea")
    assert json.loads((folder / "card.json").read_text())["thresholds"] == "none"


def test_what_does_not_fit_is_refused(models, translation, atlas, tmp_path):
    narrow = Translation("procrustes", translation.matrix[:, :12], translation.meta)
    with pytest.raises(InputError, match="with 12 features, got one with 40"):
        calibrated_sae(narrow, models["llama"], atlas, ["a b"])
    with pytest.raises(InputError, match="at least two tokens"):
        calibrated_sae(translation, models["llama"], atlas, [""])
    with pytest.raises(InputError, match="belong to another atlas"):
        export_sae(translation, tmp_path, labels=Labels.of([(40, "too far")]))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Could not write"):
        export_sae(translation, tmp_path / "file" / "sae")
