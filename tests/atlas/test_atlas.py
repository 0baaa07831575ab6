"""A tiny atlas: what it reads, how it is queried, how it is loaded, and its card."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas.atlas import Atlas
from atlas_jax.atlas.card import measure_card, splice
from atlas_jax.atlas.formats import save_saelens
from atlas_jax.atlas.labels import DEAD, Labels
from atlas_jax.atlas.load import load_atlas
from atlas_jax.atlas.recording import collect, open_activations
from atlas_jax.atlas.sae import SAE, decode, encode
from atlas_jax.atlas.sinks import content_rows, norm_limit
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.errors import InputError
from atlas_jax.models import load_model

SITE, D, F = "blocks.1.hook_resid_post", 32, 20
NAMES = {0: ("dogs",), 1: ("ships", "the navy"), 2: ("taxes",), 3: (DEAD,)}


class WordEmbedder:
    """Texts as unit vectors over a few words."""

    width, fingerprint = 6, "words"
    words = ("dogs", "ships", "navy", "taxes", "never", "the")

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts):
        self.calls += len(texts)
        counts = np.array([[w in t.split() for w in self.words] for t in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def sae():
    r = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(r.normal(size=shape).astype(np.float32))

    return SAE(array(D, F), array(F), array(F, D), array(D), jnp.full(F, 1.0), "jumprelu")


@pytest.fixture
def atlas(model, sae, monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_JAX_CACHE", str(tmp_path))
    return Atlas(
        sae,
        SITE,
        Labels.of((f, t) for f, texts in NAMES.items() for t in texts),
        "tiny",
        lambda: model,
        embedder=WordEmbedder,
    )


def maximum(acts, mask):
    return jnp.max(jnp.where(mask[:, :, None], acts, 0.0), axis=1)


def batch(model, sentences):
    rows = model.tokenizer.encode_batch(list(sentences[:3]))
    return model.tokenizer.pad(rows, 64)


def test_reads_encoded_activations(atlas, model, sae, sentences):
    tokens, mask = batch(model, sentences)
    assert atlas.sites == (f"{SITE}.hook_sae_acts_post",)
    assert atlas.width(atlas.sites[0]) == F
    x = model.read(tokens, mask, (SITE,))[SITE]
    wanted = np.where(mask[:, :, None], encode(sae, x), 0)
    got = atlas.read(tokens, mask, atlas.sites)[atlas.sites[0]]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    pooled = atlas.read(tokens, mask, atlas.sites, pool=maximum)[atlas.sites[0]]
    np.testing.assert_allclose(pooled, wanted.max(1), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="only site"):
        atlas.read(tokens, mask, (SITE,))


def test_sinks_read_as_nothing(atlas, model, sae, sentences):
    tokens, mask = batch(model, sentences)
    norms = np.linalg.norm(model.read(tokens, mask, (SITE,))[SITE], axis=-1)
    limit = float(np.median(norms[mask]))
    limited = Atlas(sae, SITE, Labels({}), "t", lambda: model, max_norm=limit)
    (site,) = limited.sites
    got = np.asarray(limited.read(tokens, mask)[site])
    plain = np.asarray(atlas.read(tokens, mask)[site])
    assert not got[norms > limit].any()
    np.testing.assert_allclose(got[norms <= limit], plain[norms <= limit], rtol=1e-6)
    assert limited.fingerprint != atlas.fingerprint


def test_text_queries(atlas):
    q = atlas.query(text="dogs the navy")
    assert set(q.features) == {0, 1} and q.name == "dogs the navy"
    np.testing.assert_allclose(q.weights, sorted(q.weights, reverse=True))
    np.testing.assert_allclose(np.asarray(q.vector)[list(q.features)], q.weights)
    assert np.count_nonzero(q.vector) == 2 and q.vector.dtype == jnp.float32
    # The better of a feature's two descriptions counts, once.
    assert atlas.search("the navy")[0] == (1, pytest.approx(1.0))
    before = atlas.embedder.calls
    atlas.query("ships")
    assert atlas.embedder.calls == before + 1


def test_weights_of_a_text_query(atlas):
    q = atlas.query(text="dogs ships", weighting="one")
    assert q.weights == (1.0, 1.0) and q.descriptions == ("dogs", "ships")
    with pytest.raises(InputError, match="'similarity' or 'one'"):
        atlas.query(text="dogs", weighting="two")
    with pytest.raises(InputError, match="top=0"):
        atlas.query(text="dogs", top=0)


def test_queries_belong_to_their_atlas(atlas, model, sae, tmp_path):
    q = atlas.query(text="dogs") + 0.5 * atlas.query(features=[2])
    assert q.name == "dogs + 0.5 taxes" and set(q.features) == {0, 2}
    assert q.atlas == atlas.identity and atlas.fingerprint.startswith(f"{atlas.identity}.")
    path = q.save(tmp_path / "q.json")
    np.testing.assert_array_equal(atlas.load_query(path).vector, q.vector)
    other = Atlas(jax.tree.map(lambda a: a + 1, sae), SITE, atlas.labels, "o", lambda: model)
    with pytest.raises(InputError, match="same atlas, got 'dogs"):
        other.load_query(path)
    with pytest.raises(InputError, match="same atlas"):
        _ = q + other.query(features=[1])
    # The model that is read is no part of the features' identity.
    limited = Atlas(sae, SITE, Labels({}), "t", lambda: model, max_norm=9.0)
    assert limited.identity == atlas.identity and limited.fingerprint != atlas.fingerprint


def test_descriptions_are_embedded_once(atlas, model, sae, monkeypatch):
    from atlas_jax.atlas import description_index

    monkeypatch.setattr(description_index, "_BLOCK", 2)
    assert [f for f, _ in atlas.search("the navy")] == [1]
    assert atlas.embedder.calls == 4 + 1  # 4 descriptions, of which 2 are of one feature
    again = Atlas(sae, SITE, atlas.labels, "again", lambda: model, embedder=WordEmbedder)
    assert again.search("taxes") == [(2, pytest.approx(1.0))]
    assert again.embedder.calls == 1
    for path in description_index.cache_folder().joinpath("descriptions").iterdir():
        path.write_bytes(b"damaged")
    third = Atlas(sae, SITE, atlas.labels, "third", lambda: model, embedder=WordEmbedder)
    assert third.search("taxes") and third.embedder.calls == 5


def test_nearest_features_by_decoder_cosine(atlas, sae):
    rows = np.asarray(sae.W_dec, np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = np.argsort(-(unit @ unit[4]))[1:4]
    found = atlas.nearest(4, k=3)
    assert [f for f, _ in found] == wanted.tolist()
    np.testing.assert_allclose([c for _, c in found], (unit @ unit[4])[wanted], rtol=1e-5)


def test_positional_text_and_top(atlas):
    assert len(atlas.query("dogs ships taxes", top=2).features) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "got none"),
        ({"text": "dogs", "features": [1]}, "got text, features"),
        ({"text": "  "}, "empty text"),
        ({"text": "zebras"}, "No description.*zebras"),
        ({"text": "never"}, "No description"),
        ({"features": []}, "at least one feature"),
        ({"features": [20]}, "0 to 19.*got 20"),
        ({"features": [-1]}, "got -1"),
        ({"features": [1, 2], "weights": [1.0]}, "one weight for each of 2"),
        ({"features": [1, 2], "weights": [0.0, 0.0]}, "zero"),
        ({"features": [1], "weights": [float("nan")]}, "NaN"),
        ({"text": "dogs", "weights": [1.0]}, "weights"),
        ({"text": "dogs", "negative": ["a"]}, "positive"),
        ({"positive": []}, "texts with words"),
        ({"positive": "dogs"}, "lists of texts"),
        ({"positive": ["same"], "negative": ["same"]}, "zero"),
    ],
)
def test_refused_queries(atlas, arguments, words):
    with pytest.raises(InputError, match=words):
        atlas.query(**arguments)


def test_feature_queries(atlas):
    q = atlas.query(features=[2, 1], weights=[0.5, -2])
    assert (q.features, q.weights) == ((2, 1), (0.5, -2.0))
    assert q.name == "taxes, ships"
    assert atlas.describe(1) == "ships" and "no description" in atlas.describe(9)
    with pytest.raises(InputError):
        atlas.describe(F)


def test_example_queries(atlas, model, sae, sentences):
    q = atlas.query(positive=list(sentences[:2]), negative=[sentences[2]])

    def pooled(text):
        ids = np.array(model.tokenizer.encode_batch([text]))
        x = model.read(ids, np.ones(ids.shape, bool), (SITE,))[SITE][0, 1:]
        return np.asarray(encode(sae, x)).max(0)

    wanted = (pooled(sentences[0]) + pooled(sentences[1])) / 2 - pooled(sentences[2])
    np.testing.assert_allclose(q.vector, wanted, rtol=1e-4, atol=1e-4)
    assert q.features[0] == np.abs(wanted).argmax()


def test_load(tmp_path, sae, tiny_llama, model):
    save_saelens(sae, tmp_path / "a", site=SITE, model_name=str(tiny_llama), max_norm=50.0)
    Labels.of((f, t) for f, texts in NAMES.items() for t in texts).save(
        tmp_path / "a" / "labels.jsonl"
    )
    atlas = load_atlas(tmp_path / "a")
    assert (atlas.site, atlas.name, atlas.max_norm) == (SITE, "a", 50.0)
    assert atlas.labels.descriptions == NAMES
    assert atlas.model.fingerprint == model.fingerprint
    again = load_atlas(tmp_path / "a", model=model, labels=Labels({}))
    assert again.fingerprint == atlas.fingerprint
    with pytest.raises(InputError, match="no descriptions"):
        Atlas(sae, SITE, Labels({}), "x", lambda: model, embedder=WordEmbedder).query("dogs")


def test_refused_loads(tmp_path, sae, model):
    with pytest.raises(InputError, match="nothing-of-that-name"):
        load_atlas("nothing-of-that-name")
    with pytest.raises(InputError, match="format"):
        load_atlas(tmp_path, format="zip")
    save_saelens(sae, tmp_path, site=SITE, model_name="m")
    with pytest.raises(InputError, match="feature 20"):
        load_atlas(tmp_path, labels=Labels.of([(20, "x")]))
    other = load_atlas(tmp_path, model=model, site="blocks.1.mlp.hook_post")
    with pytest.raises(InputError, match="width 32"):
        _ = other.model


def test_card_of_a_perfect_and_a_useless_autoencoder(tmp_path, model, sentences):
    collect(model, [" ".join(sentences)] * 8, SITE, tmp_path, 200, length=16, batch=4)
    acts = open_activations(tmp_path)
    eye = jnp.eye(D)
    both = jnp.concatenate([eye, -eye], axis=1)
    perfect = SAE(both, jnp.zeros(2 * D), both.T, jnp.zeros(D))
    card = measure_card(perfect, acts, model, SITE, heldout=6, spliced=6, batch=4)
    assert card["fve"] == pytest.approx(1, abs=1e-5)
    assert card["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert card["l0"] == pytest.approx(D, abs=1)
    rows = np.asarray(acts.acts[-6 * 15 :], np.float32)
    mean = rows[content_rows(rows, norm_limit(acts.acts))].mean(0)
    useless = SAE(jnp.zeros((D, 4)), jnp.zeros(4), jnp.zeros((4, D)), jnp.asarray(mean))
    card = measure_card(useless, acts, model, SITE, heldout=6, spliced=6, batch=4)
    assert card["fve"] == pytest.approx(0, abs=1e-5)
    assert card["ce_recovered"] == pytest.approx(0, abs=1e-4)
    assert card["dead_share"] == 1 and sum(card["density"]["features"]) == 4


def test_clean_cross_entropy_is_the_models(model, sae, sentences):
    tokens = np.array(model.tokenizer.encode_batch([sentences[0]]), np.int32)[:, :14]
    logits, _ = model(tokens, np.ones(tokens.shape, bool))
    logs = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)
    wanted = -np.take_along_axis(logs[:, :-1], tokens[:, 1:, None], -1).mean()
    out = splice(sae, model, SITE, tokens, np.zeros(D, np.float32), 1e9, batch=2)
    assert out["ce_clean"] == pytest.approx(wanted, rel=1e-5)
    # With the last layer's output replaced, the logits are those of the reconstruction.
    last = f"blocks.{model.arch.n_layers - 1}.hook_resid_post"
    x = model.read(tokens, np.ones(tokens.shape, bool), (last,))[last]
    h = x.at[:, 1:].set(decode(sae, encode(sae, x))[:, 1:])
    from flax import nnx

    logs = np.asarray(jax.nn.log_softmax(nnx.merge(model.graph, model.state).logits(h)))
    wanted = -np.take_along_axis(logs[:, :-1], tokens[:, 1:, None], -1).mean()
    out = splice(sae, model, last, tokens, np.zeros(D, np.float32), 1e9, batch=2)
    assert out["ce_spliced"] == pytest.approx(wanted, rel=1e-4)


def test_an_unfinished_recording_opens(tmp_path):
    with pytest.raises(InputError, match="found none"):
        open_activations(tmp_path)
    np.save(tmp_path / "tokens.npy", np.zeros((5, 4), np.int32))
    np.save(tmp_path / "acts.npy", np.zeros((15, 2), np.float16))
    (tmp_path / "state.json").write_text('{"done": 3}')
    acts = open_activations(tmp_path)
    assert isinstance(acts, TokenActivations)
    assert acts.tokens.shape == (3, 4) and acts.acts.shape == (9, 2)
