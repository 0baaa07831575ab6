"""Translation quality on planted truth: a subject that is the atlas rotated."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from atlas_jax.errors import InputError
from atlas_jax.evaluate import evaluate_translation
from atlas_jax.evaluate.mesh_ranking import MeshRanking
from atlas_jax.evaluate.ranking import ranking_quality
from atlas_jax.parallel import make_mesh

N, DS, DC = 3000, 24, 24
DEAD, ALWAYS, RARE = 3, 5, 7


@dataclass
class Fitted:
    matrix: np.ndarray


class Rows:
    """A stand-in for a store's site: blocks of rows in order, no indexing."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def batches(self, size):
        for start in range(0, len(self.values), min(size, 700)):
            yield self.values[start : start + min(size, 700)]


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    atlas = np.maximum(rng.standard_normal((N, DC)) - 1.2, 0).astype(np.float32)
    atlas[:, DEAD], atlas[:, ALWAYS], atlas[:, RARE] = 0, 1, 0
    atlas[:4, RARE] = 1
    rotation = np.linalg.qr(rng.standard_normal((DS, DC)))[0].astype(np.float32)
    return Fitted(rotation), atlas @ rotation.T, atlas


def test_the_true_rotation_ranks_nearly_perfectly_and_random_does_not(planted):
    true, subject, atlas = planted
    noise = Fitted(np.random.default_rng(5).standard_normal((DS, DC)).astype(np.float32))
    maps = {"procrustes": true, "noise": noise}
    report = evaluate_translation(maps, subject, atlas, features=20)
    rows = {row["method"]: row for row in report.rows()}
    assert rows["procrustes"]["auroc"] > 0.95
    assert rows["procrustes"]["ap"] > 0.9
    for method in ("random", "noise"):
        assert 0.35 < rows[method]["auroc"] < 0.65
        assert rows[method]["ap"] < 3 * report.base_rate
    assert rows["procrustes"]["auroc_minus_random_low"] > 0.3
    assert rows["noise"]["auroc_minus_procrustes_high"] < -0.3
    assert "auroc_minus_procrustes" not in rows["procrustes"]


@pytest.mark.parametrize("cosine", [False, True])
def test_each_feature_equals_scikit_learn_on_the_formula(planted, cosine):
    true, subject, atlas = planted
    uneven = Fitted(true.matrix * np.linspace(0.1, 9, DS, dtype=np.float32)[:, None] + 0.05)
    chosen = [0, 9, 20]
    report = evaluate_translation(
        {"uneven": uneven}, subject, atlas, features=chosen, cosine=cosine
    )
    unit = uneven.matrix / np.linalg.norm(uneven.matrix, axis=1, keepdims=True)
    for i, k in enumerate(chosen):
        s = unit[:, k].astype(np.float64)
        scores = subject.astype(np.float64) @ s
        if cosine:
            # A sample that is all zeros has no angle: it scores 0.
            length = np.linalg.norm(subject.astype(np.float64), axis=1)
            scores = np.divide(scores, length, out=np.zeros(N), where=length > 0)
        values = report.values["uneven"]
        assert values["auroc"][i] == pytest.approx(roc_auc_score(atlas[:, k] > 0, scores), abs=1e-5)
        expected = average_precision_score(atlas[:, k] > 0, scores)
        assert values["ap"][i] == pytest.approx(expected, abs=1e-4)


def test_stores_and_arrays_give_the_same_report(planted):
    true, subject, atlas = planted
    maps = {"procrustes": true}
    inside = evaluate_translation(maps, subject, atlas, features=8, seed=4)
    streamed = evaluate_translation(maps, Rows(subject), Rows(atlas), features=8, seed=4)
    assert inside.to_dict() == streamed.to_dict()
    other = evaluate_translation(maps, subject, atlas, features=8, seed=5)
    assert other.features != inside.features


def test_a_mesh_gives_what_one_device_gives(planted):
    true, subject, atlas = planted
    how = {"features": 11, "seed": 4, "cosine": True}
    one = evaluate_translation({"procrustes": true}, subject, atlas, **how)
    spread = evaluate_translation(
        {"procrustes": true}, Rows(subject), Rows(atlas), mesh=make_mesh(2, 4), **how
    )
    assert spread.features == one.features and list(spread.values) == ["procrustes", "random"]
    np.testing.assert_array_equal(spread.positives, one.positives)
    for method, by in one.values.items():
        for metric, values in by.items():
            np.testing.assert_allclose(spread.values[method][metric], values, atol=1e-6)


@pytest.mark.parametrize("engine", ["host", "device"])
def test_a_mesh_ranks_exactly_with_ties_whatever_the_batches(engine):
    rng = np.random.default_rng(1)
    subject = rng.integers(-2, 3, (250, 6)).astype(np.float32)  # whole numbers: sums are exact
    atlas = np.maximum(rng.integers(-3, 3, (250, 10)), 0).astype(np.float32)
    chosen = np.array([7, 0, 3])
    maps = {name: rng.integers(-2, 3, (6, 3)).astype(np.float32) for name in "ab"}
    ranking = MeshRanking(make_mesh(4, 2), engine, rows=62)  # 64, and 58 in the last batch
    np.testing.assert_array_equal(ranking.count_positives(atlas), (atlas > 0).sum(0))
    found = ranking.rank(subject, atlas, chosen, maps)
    for name, directions in maps.items():
        expected = ranking_quality(subject @ directions, atlas[:, chosen] > 0, engine)
        np.testing.assert_array_equal(found[name], expected)
    subject[77, 2] = np.inf
    with pytest.raises(InputError, match="row 77 of the activations has inf"):
        ranking.rank(subject, atlas, chosen, maps)


def test_draws_only_features_with_two_classes_and_enough_positives(planted):
    true, subject, atlas = planted
    report = evaluate_translation({"procrustes": true}, subject, atlas, features=1000)
    assert set(report.features) == set(range(DC)) - {DEAD, ALWAYS, RARE}
    assert (report.n_eligible, report.n_left_out) == (DC - 3, 3)
    few = evaluate_translation({"procrustes": true}, subject, atlas, features=1000, min_positive=4)
    assert RARE in few.features


def test_named_features_with_one_class_are_reported_and_not_averaged(planted):
    true, subject, atlas = planted
    report = evaluate_translation(
        {"procrustes": true}, subject, atlas, features=[0, DEAD, 1, ALWAYS]
    )
    assert report.one_class == (DEAD, ALWAYS)
    area = report.values["procrustes"]["auroc"]
    assert np.isnan(area[[1, 3]]).all()
    assert report.mean("procrustes", "auroc").mean == pytest.approx(area[[0, 2]].mean())
    assert report.base_rate == pytest.approx((atlas[:, :2] > 0).mean())


def test_a_zero_translation_scores_at_chance(planted):
    _, subject, atlas = planted
    zero = Fitted(np.zeros((DS, DC), np.float32))
    report = evaluate_translation({"zero": zero}, subject, atlas, features=5)
    assert report.mean("zero", "auroc") == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
    assert report.mean("zero", "ap").mean == pytest.approx(report.base_rate, abs=1e-6)


def test_report_is_json_without_nan(planted):
    true, subject, atlas = planted
    report = evaluate_translation({"procrustes": true}, subject, atlas, features=[0, DEAD])
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["per_feature"]["procrustes"]["auroc"][1] is None
    assert json.loads(text)["n_samples"] == N


def test_wrong_input_is_one_line_that_names_the_numbers(planted):
    true, subject, atlas = planted
    maps = {"procrustes": true}
    bad = subject.copy()
    bad[1234, 0] = np.nan
    cases = [
        ((maps, subject[:100], atlas), {}, "100 and 3000"),
        ((maps, subject[:, :9], atlas), {}, "'procrustes'"),
        ((maps, subject, atlas[:, :9]), {}, "(24, 9)"),
        (({}, subject, atlas), {}, "none"),
        (({"random": true}, subject, atlas), {}, "baseline"),
        ((maps, subject, atlas), {"features": [0, 99]}, "99"),
        ((maps, subject, atlas), {"min_positive": 10**6}, "from 0 with"),
        ((maps, bad, atlas), {}, "row 1234"),
    ]
    for arguments, options, part in cases:
        with pytest.raises(InputError) as caught:
            evaluate_translation(*arguments, **options)
        assert part in str(caught.value) and "\n" not in str(caught.value)
