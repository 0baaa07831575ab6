"""Penalties chosen from moments, against scikit-learn's loops over the rows."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

from atlas_jax.errors import InputError
from atlas_jax.translate import Options, fit
from atlas_jax.translate.linear import Gram
from atlas_jax.translate.ridge_path import Fold, fold_bounds, gcv_errors, k_fold_errors

RNG = np.random.default_rng(3)
N, DS, DC = 203, 6, 15
ATLAS = np.maximum(RNG.standard_normal((N, DC)) - 0.3, 0)
SUBJECT = ATLAS @ RNG.standard_normal((DC, DS)) + RNG.uniform(0.1, 30, DS) * RNG.standard_normal(
    (N, DS)
)
ALPHAS = [10.0**x for x in range(-2, 5)]


def folds(count):
    bounds = fold_bounds(N, count)
    return [
        Fold(b - a, np.triu(c.T @ c), c.T @ s, (s**2).sum(0))
        for a, b in pairwise(bounds)
        for c, s in [(ATLAS[a:b], SUBJECT[a:b])]
    ]


@pytest.mark.parametrize("count", [2, 5])
def test_k_fold_errors_equal_refitting(count):
    expected = np.zeros((len(ALPHAS), DS))
    for i, alpha in enumerate(ALPHAS):
        for train, held in KFold(count).split(ATLAS):
            model = Ridge(alpha=alpha, fit_intercept=False).fit(ATLAS[train], SUBJECT[train])
            residue = SUBJECT[held] - model.predict(ATLAS[held])
            expected[i] += (residue**2).mean(axis=0) / count
    np.testing.assert_allclose(k_fold_errors(folds(count), ALPHAS, True), expected, rtol=1e-9)
    shared = k_fold_errors(folds(count), ALPHAS)
    np.testing.assert_allclose(shared[:, 0], expected.mean(axis=1), rtol=1e-9)


def test_gcv_errors_equal_their_definition():
    gram, cross = np.triu(ATLAS.T @ ATLAS), ATLAS.T @ SUBJECT
    found = gcv_errors(Gram(gram), cross, (SUBJECT**2).sum(0), N, ALPHAS)
    for i, alpha in enumerate(ALPHAS):
        hat = ATLAS @ np.linalg.solve(ATLAS.T @ ATLAS + alpha * np.eye(DC), ATLAS.T)
        residue = ((SUBJECT - hat @ SUBJECT) ** 2).mean(axis=0)
        np.testing.assert_allclose(found[i], residue / (1 - np.trace(hat) / N) ** 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("choice", "per_target"), [("gcv", False), ("kfold", False), ("kfold", True)]
)
def test_the_fit_chooses_as_scikit_learn_does(choice, per_target):
    relative = (1e-3, 1e-1, 1.0, 1e1, 1e2)
    options = Options(alpha=choice, alphas=relative, per_target=per_target)
    subject, atlas = SUBJECT.astype(np.float32), ATLAS.astype(np.float32)
    maps = fit(subject, atlas, ("ridge", "covariance"), options=options, batch_rows=50)
    found, about = maps["ridge"], maps["ridge"].meta["options"]
    s, c = subject.astype(float), atlas.astype(float)
    covariance = (s - s.mean(0)).T @ (c - c.mean(0)) / N
    np.testing.assert_allclose(maps["covariance"].matrix, covariance, atol=1e-5)
    if choice == "gcv":  # leave-one-out, which GCV stands for
        oracle = RidgeCV(about["alphas"], fit_intercept=False)
        chosen = np.broadcast_to(oracle.fit(c, s).alpha_, DS)
    else:
        errors = np.zeros((len(relative), DS))
        for i, alpha in enumerate(about["alphas"]):
            for train, held in KFold(5).split(c):
                model = Ridge(alpha=alpha, fit_intercept=False).fit(c[train], s[train])
                errors[i] += ((s[held] - model.predict(c[held])) ** 2).mean(axis=0)
        errors = errors if per_target else errors.mean(axis=1, keepdims=True)
        chosen = np.broadcast_to(np.asarray(about["alphas"])[errors.argmin(axis=0)], DS)
    np.testing.assert_allclose(np.broadcast_to(about["alpha"], DS), chosen, rtol=1e-9)
    expected = Ridge(alpha=chosen, fit_intercept=False).fit(c, s).coef_
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-4, atol=1e-5)
    assert about["chosen_by"] == choice


def test_dead_features_stay_zero_along_the_path():
    atlas = ATLAS.astype(np.float32)
    atlas[:, 3] = 0
    found = fit(SUBJECT.astype(np.float32), atlas, ("ridge",), options=Options(alpha="kfold"))
    assert not found["ridge"].matrix[:, 3].any() and found["ridge"].matrix[:, 4].any()


def test_bad_input():
    with pytest.raises(InputError, match="positive penalties"):
        k_fold_errors(folds(2), [0.0])
    with pytest.raises(InputError, match="two folds"):
        k_fold_errors(folds(2)[:1], ALPHAS)
    with pytest.raises(InputError, match="from 2 to 203 folds"):
        fold_bounds(N, 300)
    with pytest.raises(InputError, match="gcv or kfold, got 'loo'"):
        Options(alpha="loo")
    with pytest.raises(InputError, match="alpha >= 0"):
        Options(alpha=-1.0)
