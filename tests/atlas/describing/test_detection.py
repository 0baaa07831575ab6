"""The score of a description: an AUROC that good, bad and foreign labels can be told apart by."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from atlas_jax.atlas.describing.detection import auroc, detection_scores
from atlas_jax.atlas.describing.vocabulary import by_vocabulary, phrases
from atlas_jax.atlas.describing.windows import excerpt, peaks
from atlas_jax.atlas.labels import DEAD, Label, Labels

THEMES = {0: ["vessel", "harbour", "sailors"], 1: ["puppy", "dog", "cat"], 2: ["tax", "budget"]}


@pytest.fixture(scope="module")
def scene(make_planted):
    planted = make_planted()
    for i in range(30):
        for feature, words in THEMES.items():
            planted.add(feature, [f" {words[i % len(words)]}"], [words[(i + 1) % len(words)]] * 2)
    planted.add(3, [" rare"])
    return planted


def test_auroc_is_sklearns():
    r = np.random.default_rng(0)
    a, b = r.integers(0, 6, 30) / 3, r.integers(1, 8, 50) / 3
    wanted = roc_auc_score([1] * 30 + [0] * 50, [*a, *b])
    assert auroc(a, b) == pytest.approx(wanted, abs=1e-12)


def test_a_bad_label_is_visible(scene, embedder):
    held = range(45, 91)
    activity, reader = scene.material(4, held)
    labels = ["ship and sea", "dog", "money", "assorted words"]
    made = Labels.of((f, Label(text, "hand")) for f in range(3) for text in labels)
    scored = detection_scores(made, activity, held, reader, embedder)
    score = {(f, label.text): label.score for f, label in scored.pairs()}
    assert set(score) == {(f, text) for f in range(3) for text in labels}
    assert {label.source for _, label in scored.pairs()} == {"hand"}
    for feature in range(3):
        assert score[feature, labels[feature]] == 1.0
        assert score[feature, "assorted words"] <= 0.5
        assert all(score[feature, other] <= 0.5 for other in labels if other != labels[feature])


def test_rare_features_have_no_score(scene, embedder):
    held = range(45, 91)
    activity, reader = scene.material(4, held)
    made = Labels.of([(3, Label("rare", score=0.9)), (0, "sea"), (1, DEAD)])
    scored = detection_scores(made, activity, held, reader, embedder).features
    assert scored[3][0].score is None and scored[0][0].score == 1.0 and scored[1][0].score is None
    rare = Labels({3: made.features[3]})
    assert detection_scores(rare, activity, held, reader, embedder).features[3][0].score is None


def test_the_nearest_phrase_of_the_vocabulary(scene, embedder):
    activity, reader = scene.material(4)
    found = by_vocabulary(activity, reader, embedder)
    for feature, words in THEMES.items():
        assert set(found[feature][0].split()) & set(words), found
    assert by_vocabulary(activity, reader, embedder, [1]) == {1: found[1]}


def test_phrases_are_words_and_pairs_that_many_contexts_use(make_planted):
    planted = make_planted()
    for _ in range(6):
        planted.add(0, [" steam", " engine"])
    planted.add(0, [" seldom"])
    found = phrases(planted.material(1)[1], 7)
    assert {"steam", "engine", "steam engine"} <= set(found)
    assert "seldom" not in found and "the" not in found and "that" not in found


def test_excerpts_mark_the_token(planted):
    planted.add(0, [" tele", "scope"])
    activity, reader = planted.material(1)
    (row,) = peaks(activity, 0, 12, 5)
    text = excerpt(reader, int(row), 3, 2, "[[{}]]")
    assert "tele[[scope]]" in text and len(text.split()) == 5
    assert "tele" not in excerpt(reader, int(row), 0, 1)


def test_peaks_are_one_for_each_context(planted):
    for value in range(4):
        planted.add(0, [" war"])
        planted.entries[0].append((planted.entries[0][-1][0] + 2, float(value)))
    activity, _ = planted.material(1)
    rows = peaks(activity, 0, 12, 3)
    assert len(set(rows // 11)) == len(rows) == 3
    values = dict(zip(*activity.of(0), strict=True))
    assert sorted((values[row] for row in rows), reverse=True) == [values[row] for row in rows]
