"""Retrieval against eqs. 10 and 11 written out, and on planted sets."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.evaluate import ConceptSets, evaluate_retrieval, retrieval_quality, sets_from_samples

N, DS, DC = 900, 12, 20


@dataclass
class Fitted:
    matrix: np.ndarray


class Rows:
    """A stand-in for a store's site: blocks of rows in order, no indexing."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def batches(self, size):
        for start in range(0, len(self.values), 130):
            yield self.values[start : start + 130]


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    atlas = np.maximum(rng.standard_normal((N, DC)) - 1, 0).astype(np.float32)
    true = np.linalg.qr(rng.standard_normal((DC, DS)))[0].T.astype(np.float32)
    return Fitted(true), atlas @ true.T, atlas


def test_quality_is_the_formula_term_by_term():
    scores = np.random.default_rng(1).standard_normal((9, 9)).round(1)
    found = retrieval_quality(scores)
    for i, s in enumerate(scores):
        rank = 1 + sum(s[k] > s[i] for k in range(9) if k != i)
        ties = sum(s[k] == s[i] for k in range(9) if k != i)
        z = (s - s.mean()) / s.std()
        places = [1 / (rank + t) for t in range(ties + 1)]
        assert found.mrr[i] == pytest.approx(np.mean(places))
        assert ties or found.mrr[i] == pytest.approx(1 / rank)  # eq. 10
        assert found.mpp[i] == pytest.approx(np.exp(z[i]) / np.exp(z).sum())
        assert found.tied[i] == any(s[k] == s[i] for k in range(9) if k != i)


def test_scores_that_say_nothing_are_ties_and_no_confidence():
    found = retrieval_quality(np.zeros((4, 4)))
    assert found.tied.all() and np.allclose(found.mpp, 0.25)
    assert np.allclose(found.mrr, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)  # what chance gives


def test_random_scores_give_the_stated_baselines(planted):
    true, subject, atlas = planted
    report = evaluate_retrieval({"true": true}, sets_from_samples(subject, atlas, DS, 10))
    m = len(report.features)
    assert report.random_mpp == 1 / m
    draws = np.random.default_rng(2).standard_normal((400, m, m))
    mean = np.mean([retrieval_quality(draw).mrr.mean() for draw in draws])
    assert mean == pytest.approx(report.random_mrr, abs=0.02)
    paper = np.sum(1 / np.arange(1, 455)) / 454
    assert paper == pytest.approx(0.0147, abs=5e-5)


def test_the_true_translation_finds_every_feature(planted):
    true, subject, atlas = planted
    rng = np.random.default_rng(3)
    maps = {"true": true, "noise": Fitted(rng.standard_normal((DS, DC)).astype(np.float32))}
    sets = sets_from_samples(subject, atlas, 454, 10)
    assert list(sets.features) == list(range(DS))  # all there are
    report = evaluate_retrieval(maps, sets)
    assert report.mean("true", "mrr").mean > 0.95 > 0.6 > report.mean("noise", "mrr").mean
    assert report.mean("true", "mpp").mean > 3 * report.random_mpp
    (test,) = report.tests("mrr")
    assert test["low"] > 0 and test["p"] < 0.01
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["methods"][0]["mrr"] == pytest.approx(report.values["true"]["mrr"].mean())
    assert values["n_valid"]["none"] == values["n_sets"] == DS


def test_sets_are_the_most_active_texts_split_in_two(planted):
    _, subject, atlas = planted
    sets = sets_from_samples(subject, atlas, [7, 2], 5)
    for i, feature in enumerate((7, 2)):
        order = np.argsort(-subject[:, feature], kind="stable")[:10]
        np.testing.assert_allclose(sets.queries[i], atlas[order[::2]].mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            sets.means[i], subject[order[1::2]][:, [7, 2]].mean(0), rtol=1e-5, atol=1e-6
        )
    streamed = sets_from_samples(Rows(subject), Rows(atlas), [7, 2], 5)
    np.testing.assert_allclose(streamed.queries, sets.queries, rtol=1e-6)
    drawn = sets_from_samples(subject, atlas, 4, 5, seed=1).features
    assert len(drawn) == 4 and set(drawn) != set(
        sets_from_samples(subject, atlas, 4, 5, seed=2).features
    )


def test_validity_rules():
    means = np.array([[5.0, 1.0, 0.0], [6.0, 4.0, 1.0], [0.0, 1.0, 9.0]])
    sets = ConceptSets(np.arange(3), np.eye(3, 4), means, 2, "by hand")
    rules = sets.valid()
    assert rules["sets"].tolist() == [
        False,
        True,
        True,
    ]  # set 1 activates feature 0 more than its own
    assert rules["features"].tolist() == [True, True, True]
    report = evaluate_retrieval({"t": Fitted(np.eye(3, 4, dtype=np.float32))}, sets)
    assert report.features == (1, 2) and report.n_sets == 3
    assert report.values["t"]["mrr"].tolist() == [1, 1]
    everything = evaluate_retrieval(
        {"t": Fitted(np.eye(3, 4, dtype=np.float32))}, sets, validity="none"
    )
    assert everything.features == (0, 1, 2)


def test_a_zero_row_is_tied_with_nothing_and_last(planted):
    sets = ConceptSets(np.arange(3), np.eye(3, 4), np.eye(3), 1, "by hand")
    matrix = np.eye(3, 4, dtype=np.float32)
    matrix[0] = 0
    found = evaluate_retrieval({"t": Fitted(matrix)}, sets).to_dict()["methods"][0]
    assert found["tied"] == 1 and np.isfinite(found["mpp"])


def test_wrong_input_is_one_line(planted):
    true, subject, atlas = planted
    sets = sets_from_samples(subject, atlas, 5, 5)
    cases = [
        (lambda: evaluate_retrieval({}, sets), "got none"),
        (lambda: evaluate_retrieval({"t": true}, sets, validity="some"), "got 'some'"),
        (lambda: evaluate_retrieval({"t": Fitted(true.matrix[:, :9])}, sets), "'t' has (12, 9)"),
        (lambda: evaluate_retrieval({"t": Fitted(true.matrix[:3])}, sets), "'t' has (3, 20)"),
        (lambda: sets_from_samples(subject[:30], atlas[:30], 5, 10), "at least 40"),
        (lambda: sets_from_samples(subject, atlas[:40], 5, 10), "900 and 40"),
        (lambda: sets_from_samples(subject, atlas, [1, 99], 5), "got [99]"),
        (lambda: sets_from_samples(subject, atlas, [1, 1], 5), "twice"),
        (
            lambda: evaluate_retrieval({"t": true}, sets_from_samples(subject, atlas, [3], 5)),
            "at least two",
        ),
    ]
    for call, part in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert part in str(caught.value) and "\n" not in str(caught.value)
