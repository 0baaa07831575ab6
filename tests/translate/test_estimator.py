"""The transformer: in a pipeline, cloned, searched, and equal to the equation in float64."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from atlas_jax.errors import InputError
from atlas_jax.translate import Options, Translation
from atlas_jax.translate.estimator import TranslationTransformer

RNG = np.random.default_rng(2)
X = RNG.standard_normal((60, 6)).astype(np.float32)
Y = np.abs(X @ RNG.standard_normal((6, 9))).astype(np.float32)


def by_hand(rows, matrix):
    matrix = matrix.astype(np.float64)
    return rows @ (matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def test_scores_are_those_of_the_translation():
    made = TranslationTransformer("covariance").fit(X, Y)
    xc, yc = X.astype(np.float64) - X.mean(0), Y.astype(np.float64) - Y.mean(0)
    np.testing.assert_allclose(made.transform(X), by_hand(X, xc.T @ yc), rtol=1e-4, atol=1e-4)
    scores = made.translation_.scores(np.eye(9, dtype=np.float32)[4])
    np.testing.assert_allclose(made.transform(X)[:, 4], X @ scores, rtol=1e-4, atol=1e-5)
    assert made.n_features_in_ == 6 and len(made.get_feature_names_out()) == 9


def test_in_a_pipeline_and_cloned():
    options = Options(rcond=1e-4)
    line = make_pipeline(StandardScaler(), TranslationTransformer("procrustes", options))
    found = line.fit(X, Y).transform(X)
    scaled = StandardScaler().fit_transform(X)
    again = TranslationTransformer(options=options).fit(scaled, Y)
    np.testing.assert_allclose(found, again.transform(scaled), atol=1e-5)
    assert list(line.get_feature_names_out()[:2]) == ["atlas.0", "atlas.1"]
    copy = clone(again)
    assert copy.get_params() == {"method": "procrustes", "options": options}
    with pytest.raises(NotFittedError):
        copy.transform(X)
    copy.set_params(method="covariance").fit(X, Y)
    assert copy.translation_.method == "covariance"


def test_of_a_translation_that_exists():
    meta = {"atlas": {"site": "blocks.2.sae"}, "labels": {"1": "the sea"}}
    made = TranslationTransformer.of(Translation("ridge", Y[:6, :4], meta))
    names = ["blocks.2.sae.0", "the sea", "blocks.2.sae.2", "blocks.2.sae.3"]
    assert list(made.get_feature_names_out()) == names
    np.testing.assert_allclose(made.transform(X), by_hand(X, Y[:6, :4]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="rows of 6 subject features"):
        made.transform(X[:, :5])
