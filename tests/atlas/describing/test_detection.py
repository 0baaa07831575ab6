"""The score of a description: an AUROC that good, bad and foreign labels can be told apart by."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from atlas_jax.atlas.describing.description import Description, load_descriptions, order
from atlas_jax.atlas.describing.description import save_descriptions as save
from atlas_jax.atlas.describing.detection import auroc, detection_scores
from atlas_jax.atlas.describing.vocabulary import by_vocabulary, phrases
from atlas_jax.atlas.describing.windows import excerpt, peaks
from atlas_jax.errors import InputError

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
    made = [Description(f, text) for f in range(3) for text in labels]
    scored = detection_scores(made, activity, held, reader, embedder)
    assert [(d.feature, d.description) for d in scored] == [
        (d.feature, d.description) for d in made
    ]
    score = {(d.feature, d.description): d.score for d in scored}
    for feature in range(3):
        assert score[feature, labels[feature]] == 1.0
        assert score[feature, "assorted words"] <= 0.5
        assert all(score[feature, other] <= 0.5 for other in labels if other != labels[feature])


def test_rare_features_have_no_score(scene, embedder):
    held = range(45, 91)
    activity, reader = scene.material(4, held)
    made = [Description(3, "rare", score=0.9), Description(0, "sea")]
    scored = detection_scores(made, activity, held, reader, embedder)
    assert scored[0].score is None and scored[1].score == 1.0
    assert detection_scores(made[:1], activity, held, reader, embedder)[0].score is None


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


def test_descriptions_on_disk(tmp_path):
    found = [
        Description(2, "b", "statistics", 0.4),
        Description(2, "a", "vocabulary", 0.9),
        Description(1, "gap", "statistics"),
        Description(2, "c"),
    ]
    path = tmp_path / "labels.jsonl"
    save(order(found), path)
    assert [d.description for d in load_descriptions(path)] == ["gap", "a", "b", "c"]
    assert sorted(load_descriptions(path), key=str) == sorted(found, key=str)
    assert '"score"' not in path.read_text().splitlines()[0]
    assert load_descriptions(tmp_path / "none.jsonl") == []
    path.write_text('{"feature": 1}\n')
    with pytest.raises(InputError, match="line 1") as caught:
        load_descriptions(path)
    assert "\n" not in str(caught.value)
