"""How a feature is used: in recorded activations and in captured texts; and `atlas show`."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.activations import capture
from atlas_jax.atlas.contexts import use_in_texts, use_in_tokens
from atlas_jax.atlas.formats import save_saelens
from atlas_jax.atlas.labels import Label, Labels
from atlas_jax.atlas.load import load_atlas
from atlas_jax.atlas.sae import SAE, encode, only
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.cli.app import app
from atlas_jax.corpus import Corpus, Texts

D, F, SITE = 32, 12, "blocks.1.hook_resid_post"


class Letters:
    bos_id = None

    def pieces(self, ids):
        return [chr(97 + i) for i in np.asarray(ids)]


def make(k=None):
    r = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(r.normal(size=shape).astype(np.float32))  # noqa: E731
    theta = None if k else jnp.full(F, 0.5)
    kind = "topk" if k else "jumprelu"
    return SAE(array(D, F), array(F), array(F, D), array(D), theta, kind, k, True)


def recordings():
    r = np.random.default_rng(1)
    tokens = r.integers(0, 26, (5, 8)).astype(np.int32)
    return TokenActivations(np.asarray(r.normal(size=(35, D))).astype(np.float16), tokens)


@pytest.mark.parametrize("k", [None, 3])
def test_use_in_tokens(k):
    sae, acts = make(k), recordings()
    acts.acts[9] = acts.acts[9] * 100  # a sink
    every = np.array(encode(sae, jnp.asarray(acts.acts, jnp.float32)))[:, 4]
    every[9] = 0
    use = use_in_tokens(sae, 4, acts, 30.0, Letters(), k=3)
    assert use.counted == 34 and use.density == pytest.approx((every > 0).sum() / 34)
    best = int(every.argmax())
    context, place = divmod(best, 7)
    text = "".join(Letters().pieces(acts.tokens[context]))
    first = use.contexts[0]
    assert first.activation == pytest.approx(every[best], rel=1e-5)
    assert first.before + first.token + first.after == text
    assert len(first.before) == place + 1 and len(first.token) == 1
    assert len(use.contexts) <= 3
    letters = Letters()
    letters.bos_id = acts.tokens[context][0]
    assert use_in_tokens(sae, 4, acts, 30.0, letters).contexts[0].before == first.before[1:]
    wanted = np.sort(every.reshape(5, 7).max(1))[::-1]
    got = [c.activation for c in use.contexts]
    np.testing.assert_allclose(got, wanted[: len(got)], rtol=1e-5)


def test_one_feature_alone():
    sae, x = make(), jnp.asarray(recordings().acts, jnp.float32)
    alone, column = only(sae, 7)
    assert alone.n_features == 1
    np.testing.assert_allclose(encode(alone, x)[:, column], encode(sae, x)[:, 7], rtol=1e-5)
    assert only(make(3), 7)[1] == 7


def test_use_in_texts():
    use = use_in_texts(np.array([0.0, 2.0, 0.5, 0.0], np.float32), ["a", "b", "c", "d"], k=3)
    assert (use.density, use.counted, use.unit) == (0.5, 4, "texts")
    assert [(c.before, c.activation) for c in use.contexts] == [("b", 2.0), ("c", 0.5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llama, sentences):
    """A run folder: an atlas beside a corpus and what was captured of it."""
    folder = tmp_path_factory.mktemp("run")
    save_saelens(make(), folder / "atlas", site=SITE, model_name=str(tiny_llama))
    pairs = [(4, Label("ships", "gpt", 0.5)), (4, Label("the navy", "words", 0.75))]
    Labels.of(pairs).save(folder / "atlas" / "labels.jsonl")
    train = Texts(sentences[:4])
    corpus = Corpus(train, Texts(sentences[4:]))
    corpus.save(folder / "corpus")
    atlas = load_atlas(folder / "atlas")
    store = capture(atlas, train, out=folder / "activations" / "train" / "atlas")
    return folder, store[store.sites[0]][:]


def show(*arguments):
    return CliRunner().invoke(app, ["atlas", "show", *map(str, arguments)])


def test_show_a_feature(run):
    folder, acts = run
    result = show(4, "--atlas", folder / "atlas", "--contexts", folder, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert [label["text"] for label in facts["labels"]] == ["the navy", "ships"]
    assert facts["density"] == pytest.approx((acts[:, 4] > 0).mean())
    assert facts["contexts"][0]["activation"] == pytest.approx(float(acts[:, 4].max()), rel=1e-5)
    assert len(facts["nearest"]) == 5 and facts["nearest"][0]["feature"] != 4
    words = show(4, "--atlas", folder / "atlas", "--contexts", folder).output
    for part in ("4: the navy  [words, score 0.75]", "density: active on", "4 texts", "nearest"):
        assert part in words
    assert "nothing recorded" in show(4, "--atlas", folder / "atlas").output


def test_show_an_atlas_and_wrong_contexts(run, tmp_path):
    folder, _ = run
    whole = show("--atlas", folder / "atlas", "--json")
    facts = json.loads(whole.output)
    assert facts["features"] == F and facts["described"] == pytest.approx(1 / F)
    assert "8% described" in show("--atlas", folder / "atlas").output
    wrong = show(4, "--atlas", folder / "atlas", "--contexts", tmp_path)
    assert wrong.exit_code == 2 and "run folder, got" in wrong.output
    assert show(F, "--atlas", folder / "atlas").exit_code == 2
