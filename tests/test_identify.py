"""Identification: the right features and texts, stable order, wrong stores refused."""

import numpy as np
import pytest

from atlas_jax.activations.top_samples import find_top_samples
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.identify import identify, rank_features
from atlas_jax.translate import Translation

RNG = np.random.default_rng(0)
MATRIX = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 2, 0], [-3, 0, 0]], np.float32)
ACTS = RNG.standard_normal((8, 5)).astype(np.float32)
TEXTS = Texts([f"text {i}" for i in range(8)])


class Rows:
    def __init__(self):
        self.shape, self.meta = ACTS.shape, {"texts": TEXTS.hash}

    def top_samples(self, k):
        return find_top_samples([ACTS], ACTS.shape[1], k)


def translation():
    return Translation("covariance", MATRIX, {"subject": {"site": "blocks.0.mlp.hook_post"}})


def test_features_by_cosine_and_texts_by_activation():
    hits = identify(translation(), np.array([2.0, 0, 0]), Rows(), TEXTS, k=3, samples=4)
    assert [hit.feature for hit in hits] == [0, 1, 2]
    np.testing.assert_allclose([hit.score for hit in hits], [1, 2**-0.5, 0], rtol=1e-6)
    for hit in hits:
        best = np.argsort(-ACTS[:, hit.feature])[:4]
        assert [sample.row for sample in hit.samples] == best.tolist()
        assert [sample.text for sample in hit.samples] == [f"text {i}" for i in best]
        assert hit.samples[0].activation == ACTS[:, hit.feature].max()
    concepts = dict(hits[1].concepts)
    assert set(concepts) == {0, 1}
    np.testing.assert_allclose(list(concepts.values()), 2**-0.5, rtol=1e-6)
    assert hits[2].concepts == []  # a dead feature is near to nothing


def test_equal_scores_keep_their_order():
    ranked = rank_features(translation(), np.array([0, 0, 1.0]), 5)
    assert [feature for feature, _ in ranked] == [0, 1, 2, 3, 4]


def test_bad_input():
    with pytest.raises(InputError, match="8 texts that the store was captured on, got 8 texts"):
        identify(translation(), np.ones(3), Rows(), Texts(["x"] * 8))
    with pytest.raises(InputError, match="k from 1 to 5"):
        identify(translation(), np.ones(3), Rows(), TEXTS, k=6)
    with pytest.raises(InputError, match="3 atlas features"):
        identify(translation(), np.ones(4), Rows(), TEXTS)
    with pytest.raises(InputError, match="by name or from 0 to 4, got 5"):
        translation().top_concepts(5)
