"""The shuffling buffer, from recordings and straight from a model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas import ModelActivations, collect, cut_contexts, measure_card, train_atlas
from atlas_jax.atlas.recording import open_activations
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.windows import Windows
from atlas_jax.errors import InputError
from atlas_jax.models import load_model

ROWS, LENGTH = 9, 10


def numbered(contexts: int) -> TokenActivations:
    """Each row holds its own number."""
    rows = np.arange(contexts * ROWS, dtype=np.float32)
    tokens = np.zeros((contexts, LENGTH), np.int32)
    return TokenActivations(np.stack([rows, np.ones_like(rows)], 1), tokens)


@pytest.mark.parametrize("buffer", [20, 90, 10_000])
def test_an_epoch_sees_every_token_once_and_epochs_differ(buffer):
    source = numbered(40)
    windows = Windows(source, 30, Recipe(batch=9, buffer=buffer))
    epochs = [
        np.concatenate([windows.batch(e * windows.per_epoch + i)[:, 0] for i in range(30)])
        for e in range(3)
    ]
    assert windows.per_epoch == 30
    for seen in epochs:
        np.testing.assert_array_equal(np.sort(seen), np.arange(30 * ROWS))
    assert not np.array_equal(epochs[0], epochs[1])
    other = Windows(source, 30, Recipe(batch=9, buffer=buffer, seed=1))
    assert not np.array_equal(other.batch(0), windows.batch(0))


def test_tokens_of_a_window_are_mixed_and_windows_hold_no_more_than_the_buffer():
    source = numbered(400)
    windows = Windows(source, 400, Recipe(batch=36, buffer=900))
    assert all(len(windows.raw(0, i)) <= 1.1 * 900 for i in range(4))
    contexts = {len(set(windows.batch(i)[:, 0] // ROWS)) for i in range(20)}
    assert min(contexts) > 20  # of 36 tokens; without mixing they would come from 4 contexts


def test_any_step_can_be_had_at_once():
    recipe = Recipe(batch=16, buffer=60)
    through = Windows(numbered(40), 33, recipe)
    batches = [through.batch(i) for i in range(2 * through.per_epoch)]
    for step in (27, 3, len(batches) - 1):
        np.testing.assert_array_equal(Windows(numbered(40), 33, recipe).batch(step), batches[step])


def test_sinks_are_replaced_by_other_tokens():
    source = numbered(20)
    source.acts[5::7, 1] = 1e6
    windows = Windows(source, 20, Recipe(batch=30, buffer=10_000))
    windows.limit = 1e4
    seen = np.concatenate([windows.batch(i) for i in range(windows.per_epoch)])
    assert len(seen) == 180 and (seen[:, 1] == 1).all()
    sinks = set(range(5, 180, 7))
    assert set(seen[:, 0].astype(int)) == set(range(180)) - sinks


def test_too_few_tokens():
    with pytest.raises(InputError, match="at least 64 training activations .* got 63"):
        Windows(numbered(8), 7, Recipe(batch=64))


RECIPE = Recipe(n_features=48, k=4, batch=64, epochs=3, buffer=200, dead_after=500)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_model(tiny_llama)


def test_a_model_trains_what_its_recording_trains(model, sentences, tmp_path):
    site = "blocks.1.hook_resid_post"
    texts = [f"{a} {b}" for a in sentences for b in sentences]
    recorded = collect(model, texts, site, tmp_path / "acts", 1200, 16, seed=3, dtype="float32")
    tokens = cut_contexts(model.tokenizer, texts, 1200, 16, 3)
    live = ModelActivations(model, site, tokens, batch=8)
    np.testing.assert_array_equal(live.tokens, recorded.tokens)
    rows = np.array([7, 0, 33])
    np.testing.assert_allclose(live.read(rows), recorded.read(rows), atol=1e-5)
    saes = [
        train_atlas(s, tmp_path / n, site, "m", RECIPE, heldout=10, half=False)
        for s, n in ((live, "live"), (recorded, "recorded"))
    ]
    for a, b in zip(*map(jax.tree.leaves, saes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    cards = [measure_card(saes[0], s, heldout=10) for s in (live, recorded)]
    assert cards[0]["fve"] == pytest.approx(cards[1]["fve"], rel=1e-4)
    assert sum(cards[0]["density"]["features"]) == 48


def test_a_recording_resumes(model, sentences, tmp_path, monkeypatch):
    site = "blocks.1.hook_resid_post"
    texts = [f"{a} {b}" for a in sentences for b in sentences]

    def record(name):
        return collect(model, texts, site, tmp_path / name, 1200, 16, batch=1)

    whole = record("whole")
    real, calls = type(model).read, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 70:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(type(model), "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record("part")
    assert len(open_activations(tmp_path / "part").tokens) == 64
    monkeypatch.setattr(type(model), "read", real)
    np.testing.assert_array_equal(record("part").acts, whole.acts)
    with pytest.raises(InputError, match="dtype='float32'"):
        collect(model, texts, site, tmp_path / "part", 1200, 16, dtype="float32")
    with pytest.raises(InputError, match="Expected recorded activations"):
        open_activations(tmp_path / "nowhere")
    assert jnp.isfinite(jnp.asarray(whole.acts)).all() and replace(RECIPE).k == 4
