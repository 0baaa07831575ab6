"""Queries: what they print, how they add up, what they refuse, and their file."""

import json

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.query import Query
from atlas_jax.translate.translation import Translation


def query(name, entries, atlas="a", width=6):
    vector = np.zeros(width, np.float32)
    for feature, weight in entries.items():
        vector[feature] = weight
    texts = tuple(f"text {f}" for f in entries)
    return Query(vector, name, tuple(entries), tuple(entries.values()), texts, atlas)


DOGS, CATS = query("dogs", {1: 1.0, 2: 0.5}), query("cats", {2: 2.0, 4: -1.0})


def test_prints_what_it_consists_of():
    lines = repr(DOGS + CATS).splitlines()
    assert lines[0] == "Query('dogs + cats', 3 of 6 features)"
    assert lines[1].split() == ["+2.500", "2", "text", "2"]
    assert len(lines) == 4
    many = Query(np.ones(40, np.float32), "m", (3, 4), (1.0, 1.0))
    assert repr(many).splitlines()[-1] == "  and 38 more"


def test_sums_and_weights():
    both = DOGS + 0.5 * CATS
    np.testing.assert_allclose(both.vector, [0, 1, 1.5, 0, -0.5, 0])
    assert both.features == (2, 1, 4) and both.weights == (1.5, 1.0, -0.5)
    assert both.descriptions == ("text 2", "text 1", "text 4")
    assert both.name == "dogs + 0.5 cats" and both.atlas == "a"
    less = DOGS - CATS * 0.25
    np.testing.assert_allclose(less.vector, [0, 1, 0, 0, 0.25, 0])
    assert less.features == (1, 4)  # feature 2 cancelled out
    assert (DOGS - CATS).name == "dogs - cats" and (2 * both).name == "2 (dogs + 0.5 cats)"
    np.testing.assert_allclose((CATS * np.float32(3)).vector, 3 * np.asarray(CATS.vector))
    assert both.vector.dtype == np.float32


def test_refused_sums():
    with pytest.raises(InputError, match="zero in every feature"):
        _ = DOGS - DOGS
    with pytest.raises(InputError, match="zero in every feature"):
        _ = 0 * DOGS
    with pytest.raises(InputError, match="same atlas, got 'ships'"):
        _ = DOGS + query("ships", {1: 1.0}, atlas="b")
    with pytest.raises(InputError, match="6 atlas features, got 'ships' of 7"):
        _ = DOGS + query("ships", {1: 1.0}, width=7)


def test_round_trip(tmp_path):
    saved = (DOGS + 0.3 * CATS).save(tmp_path / "deep" / "q.json")
    loaded = Query.load(saved)
    wanted = DOGS + 0.3 * CATS
    np.testing.assert_array_equal(loaded.vector, wanted.vector)
    for field in ("name", "features", "weights", "descriptions", "atlas"):
        assert getattr(loaded, field) == getattr(wanted, field)
    assert [path.name for path in saved.parent.iterdir()] == ["q.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "format 'atlas-jax query 1'"),
        ("[]", "format 'atlas-jax query 1'"),
        ('{"format": "atlas-jax query 1"}', "n_features. is missing. It is damaged"),
        ({"vector": {"9": 1.0}, "sha256": None}, "damaged: make it again"),
        ({"vector": {}, "sha256": None}, "zero in every feature"),
        ({"name": "cats"}, "It is damaged: make it again"),
    ],
)
def test_refused_files(tmp_path, content, words):
    path = DOGS.save(tmp_path / "q.json")
    if isinstance(content, dict):
        changed = json.loads(path.read_text()) | content
        content = json.dumps({k: v for k, v in changed.items() if v is not None})
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        Query.load(path)
    with pytest.raises(InputError, match="no such file"):
        Query.load(tmp_path / "none.json")


def test_a_translation_refuses_a_query_of_another_atlas():
    def translation(fingerprint):
        meta = {"atlas": {"model": "gemma-scope", "fingerprint": fingerprint}}
        return Translation("m", np.eye(6, dtype=np.float32), meta)

    np.testing.assert_allclose(
        translation("a.123").scores(DOGS), DOGS.vector / np.sqrt(np.float32(1.25))
    )
    with pytest.raises(InputError, match=r"fitted on \(gemma-scope\)"):
        translation("b.123").scores(DOGS)
    # Between two models, nothing is known of an atlas.
    assert translation("a model's weights").scores(DOGS).shape == (6,)
