"""The data of each view, against arrays that were read whole."""

import hashlib
import json
from itertools import pairwise
from urllib.parse import parse_qsl

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore
from atlas_jax.errors import InputError
from atlas_jax.explorer import views
from atlas_jax.explorer.answers import Answers
from atlas_jax.explorer.explored import ALL, Explored
from atlas_jax.explorer.link import Place
from atlas_jax.explorer.results import read_comparison, read_lift
from atlas_jax.explorer.writing import write
from atlas_jax.models import generate
from atlas_jax.pipeline.token_heat import read_heat
from atlas_jax.steering import steer
from atlas_jax.translate import Translation
from atlas_jax.translate.stored import StoredTranslation

from .conftest import METHODS, PLANTED, ROWS, SITES, WordEmbedder

QUERY = {12: 0.5, 36: -1.0}


@pytest.fixture(scope="module")
def whole(folder):
    """Everything read at once: translations and held-out activations."""
    maps = {
        site: Translation.load(folder / "translations" / site / "procrustes.safetensors")
        for site in SITES
    }
    store = ActivationStore.open(folder / "activations" / "eval" / "subject")
    return maps, {site: np.asarray(store[site]) for site in SITES}


@pytest.fixture(autouse=True)
def never_whole(monkeypatch):
    """No view may read a translation as a whole."""
    monkeypatch.setattr(
        StoredTranslation, "matrix", property(lambda self: pytest.fail("read whole"))
    )


@pytest.fixture(scope="module", autouse=True)
def nothing_is_written(folder):
    def state():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = state()
    yield
    assert state() == before


def test_words_and_numbers_become_atlas_features(explored):
    found = explored.search("rivers", 3)
    assert [one.feature for one in found] == [0, 12, 24] and 0.43 <= found[0].weight < 1
    assert explored.search("nothing alike whatsoever") == []
    assert [one.feature for one in explored.search("#24, 7 24")] == [24, 7]
    with pytest.raises(InputError, match="from 0 to 95"):
        explored.search("96")


def test_subject_features_are_ranked_over_all_sites(explored, whole):
    maps, _ = whole
    every = []
    for site, translation in maps.items():
        matrix = translation.matrix.astype(np.float64)
        q = np.zeros(matrix.shape[1])
        q[list(QUERY)] = list(QUERY.values())
        norms = np.linalg.norm(matrix, axis=1)
        scores = matrix @ q / np.linalg.norm(q) / np.where(norms > 0, norms, 1)
        every += [(-score, site, i) for i, score in enumerate(scores)]
    best = sorted(every)[:20]
    found = explored.rank(QUERY, ALL, "procrustes")
    assert [(hit.site, hit.feature) for hit in found] == [(site, i) for _, site, i in best]
    np.testing.assert_allclose([hit.score for hit in found], [-s for s, *_ in best], rtol=1e-5)
    first = found[0]
    assert [(c.feature, pytest.approx(c.weight)) for c in first.concepts] == maps[
        first.site
    ].top_concepts(first.feature, 2)
    one = explored.rank(QUERY, SITES[1], "procrustes", 3)
    assert {hit.site for hit in one} == {SITES[1]} and len(one) == 3


def test_a_feature_has_its_texts_and_its_distribution(explored, whole):
    values = whole[1][SITES[0]][:, 9]
    found = explored.detail(SITES[0], "procrustes", 9)
    order = np.argsort(-values, kind="stable")[: len(found.samples)]
    np.testing.assert_array_equal([s.activation for s in found.samples], values[order])
    for sample, row in zip(found.samples, order, strict=True):
        assert f"number {row} is" in sample.text and PLANTED in sample.text
        assert sample.source == "<b>source</b>"
    spread = found.spread
    assert spread is not None and spread.n == spread.total == spread.counts.sum() == ROWS
    counts, _ = np.histogram(values, spread.edges.astype(np.float64))
    assert np.abs(counts - spread.counts).sum() <= 2  # an edge is rounded to float32
    assert explored.detail(SITES[0], "procrustes", 5).concepts == ()  # a row of zeros
    with pytest.raises(InputError, match="subject from 0 to 63, got 64"):
        explored.detail(SITES[0], "procrustes", 64)


def test_tokens_are_as_hot_as_the_model_says(explored, whole):
    site, feature = SITES[0], 9
    found = explored.heated(explored.detail(site, "procrustes", feature))
    model = explored.run.model
    for sample in found.samples[:2]:
        ids = model.tokenizer.encode_batch([sample.text])[0][:64]
        _, acts = model(np.array([ids]), np.ones((1, len(ids)), bool), taps=(site,))
        values = np.array(acts[site][0, 1:, feature])  # what is first is never read
        np.testing.assert_allclose(sample.heat, np.maximum(values, 0) / values.max(), atol=2e-3)
        assert "".join(sample.tokens).startswith("The ") and len(sample.tokens) == len(ids) - 1
        assert values.max() == pytest.approx(sample.activation, rel=1e-4)
    assert read_heat(model, [], 64) == []


def test_writing_streams_what_generate_says(explored):
    said = list(write(explored, "The river", QUERY, ALL, "procrustes", 300.0, 8))
    scores = {site: explored.stored(site, "procrustes").scores(QUERY) for site in SITES}
    edits = [steer(site, scores[site], 300.0) for site in SITES]
    plain, steered = generate(explored.run.model, ["The river"] * 2, [[], edits], 8)
    assert said[-1].done and (said[-1].plain, said[-1].steered) == (plain, steered)
    assert plain != steered and len(said) > 2 and not said[0].plain
    for before, after in pairwise(said):
        assert after.plain.startswith(before.plain) and after.steered.startswith(before.steered)
    with pytest.raises(InputError, match="prompt"):
        next(write(explored, " ", QUERY, ALL, "procrustes", 300.0))
    stopped = write(explored, "The river", QUERY, ALL, "procrustes", 300.0, 100)
    next(stopped)
    stopped.close()  # the model is free again for whoever comes next
    assert explored.model_lock.acquire(timeout=60)
    explored.model_lock.release()


def test_no_text_becomes_markup(explored):
    answers = Answers(explored)
    place = Place(text=f"rivers, kind 0 {PLANTED}", site=ALL, method="procrustes", heat=True)
    shown = list(answers.search(place))
    assert len(shown) == 2 and shown[-1].place.feature is not None
    steps = list(answers.steer(shown[-1].place, PLANTED, 4.0, 4, "steer"))
    pages = [answers.heading(), answers.comparison(), answers.bridge(), steps[-1]]
    pages += [part for one in shown for part in (one.ranking, one.detail, one.message)]
    pages.append(views.note(PLANTED))
    for page in pages:
        assert "<script" not in page and "<img" not in page and "<b>source" not in page
    assert sum("&lt;script&gt;" in page for page in pages) >= 6


def test_what_was_measured_is_found(folder, lift, tmp_path):
    assert list(read_comparison(folder)["quality"]["layers"]) == list(SITES)
    rows = [
        {"method": "ridge"}
        | {f"{m}{e}": 0.6 for m in ("auroc", "ap") for e in ("", "_low", "_high")}
    ]
    per = {"ridge": {"auroc": [0.6], "ap": [0.6]}}
    later = tmp_path / "reports" / "translation" / "translation.json"
    later.parent.mkdir(parents=True)
    later.write_text(
        json.dumps({"sites": {"x": {"methods": rows, "per_feature": per, "n_samples": 9}}})
    )
    found = read_comparison(tmp_path)
    assert found["quality"]["layers"]["x"]["ridge"]["ap"] == [0.6] * 3
    assert "ridge" in views.comparison(found, "run") and "0.600" in views.comparison(found, "run")
    assert "atlas-jax evaluate" in views.comparison({}, "run")
    assert read_lift(folder) is None and "atlas-jax lift" in views.bridge(None, "", "run")
    result = read_lift(folder, lift.parent)
    assert result is not None and [one.name for one in result.explanations] == ["9", "7"]
    assert [one.name for one in result.matching("about RIVERS")] == ["7"]
    with pytest.raises(InputError, match="found none"):
        read_lift(folder, tmp_path / "nowhere")
    later.write_text("{}")
    with pytest.raises(InputError, match="Could not read the result of atlas-jax lift"):
        read_lift(folder, later)


def test_a_link_says_all_and_trusts_nothing():
    place = Place("steer", "a & b", ((12, 0.5), (3, -1.0)), ALL, "procrustes", (SITES[0], 9), True)
    query = dict(parse_qsl(place.link()[1:]))
    assert Place.read(query, (*SITES, ALL), METHODS) == place
    wrong = {
        "tab": "x", "atlas": "1:nan,2:inf,-3,4:x,5", "site": "<script>", "method": "..",
        "feature": f"{SITES[0]}.-1", "q": "x" * 9000,
    }  # fmt: skip
    found = Place.read(wrong, SITES, METHODS)
    assert found == Place(text="x" * 500, weights=((5, 1.0),))


def test_a_run_without_texts_is_still_searched(folder, tmp_path):
    for name in ("manifest.json", "translations"):
        (tmp_path / name).symlink_to(folder / name)
    explored = Explored(tmp_path)
    explored.run.atlas._embedder = WordEmbedder
    explored.warm()
    explored.read_tops()
    found = explored.detail(SITES[0], "covariance", 3)
    assert found.concepts and found.samples == () and found.spread is None
    assert "kept no held-out" in views.detail(found)
