"""Translations by property: oracles, planted truth, invariances, any batch size, any mesh."""

import jax
import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import LinearRegression, Ridge

from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh
from atlas_jax.translate import METHODS, Options, Translation, fit

RNG = np.random.default_rng(2)
N, DS, DC = 400, 12, 20
ATLAS = np.maximum(RNG.standard_normal((N, DC)) - 0.5, 0).astype(np.float32)
SUBJECT = (ATLAS @ RNG.standard_normal((DC, DS)) + RNG.standard_normal((N, DS))).astype(np.float32)
EVERY = tuple(METHODS)
ALL = tuple(name for name in EVERY if name != "procrustes_exact")  # that ends at no fixed point


def test_covariance_and_correlation_equal_numpy():
    maps = fit(SUBJECT, ATLAS, ("covariance", "correlation"), batch_rows=64)
    both = np.concatenate([SUBJECT, ATLAS], axis=1).astype(np.float64)
    np.testing.assert_allclose(
        maps["covariance"].matrix, np.cov(both.T, bias=True)[:DS, DS:], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        maps["correlation"].matrix, np.corrcoef(both.T)[:DS, DS:], rtol=1e-4, atol=1e-6
    )


def test_regressions_equal_scikit_learn():
    maps = fit(SUBJECT, ATLAS, ("linear_regression", "ridge"), options=Options(alpha=0.5))
    ols = LinearRegression(fit_intercept=False).fit(ATLAS.astype(float), SUBJECT.astype(float))
    np.testing.assert_allclose(maps["linear_regression"].matrix, ols.coef_, rtol=1e-4, atol=1e-5)
    alpha = maps["ridge"].meta["options"]["alpha"]
    assert alpha == pytest.approx(0.5 * (ATLAS.astype(float) ** 2).sum() / DC, rel=1e-6)
    oracle = Ridge(alpha=alpha, fit_intercept=False).fit(ATLAS.astype(float), SUBJECT.astype(float))
    np.testing.assert_allclose(maps["ridge"].matrix, oracle.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 15])
def test_regression_has_least_norm_where_samples_are_few(rows):
    atlas = ATLAS[:rows].copy()
    atlas[:, 4], atlas[:, 7] = 0, atlas[:, 6]
    solved = fit(SUBJECT[:rows], atlas, ("linear_regression",))["linear_regression"]
    expected = scipy.linalg.lstsq(atlas.astype(float), SUBJECT[:rows].astype(float))[0].T
    np.testing.assert_allclose(solved.matrix, expected, rtol=1e-3, atol=1e-4)
    assert not solved.matrix[:, 4].any()
    np.testing.assert_allclose(solved.matrix[:, 6], solved.matrix[:, 7], atol=1e-5)


def test_procrustes_equals_the_svd_of_unit_rows():
    t = fit(SUBJECT, ATLAS, ("procrustes",), batch_rows=100)["procrustes"]
    s, c = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (SUBJECT, ATLAS.astype(float)))
    u, _, vt = scipy.linalg.svd(s.T @ c, full_matrices=False)
    np.testing.assert_allclose(t.matrix, u @ vt, atol=2e-5)
    np.testing.assert_allclose(t.matrix @ t.matrix.T, np.eye(DS), atol=1e-5)
    assert t.meta["options"]["constraint"] == "T T' = I"
    other = fit(ATLAS, SUBJECT, ("procrustes",))["procrustes"]
    np.testing.assert_allclose(other.matrix.T @ other.matrix, np.eye(DS), atol=1e-5)
    assert other.meta["options"]["constraint"] == "T' T = I"


def test_procrustes_recovers_a_planted_rotation():
    basis = np.linalg.qr(RNG.standard_normal((DC, DS)))[0].T
    atlas = RNG.standard_normal((3000, DC)).astype(np.float32)
    subject = (atlas @ basis.T + 0.01 * RNG.standard_normal((3000, DS))).astype(np.float32)
    t = fit(subject, atlas, ("procrustes",))["procrustes"]
    # Rows of unit length are weighted samples: the residue is sampling error, 1 / sqrt(N).
    assert np.linalg.norm(t.matrix - basis) / np.linalg.norm(basis) < 0.07
    few = fit(subject[:300], atlas[:300], ("procrustes",))["procrustes"]
    assert np.linalg.norm(few.matrix - basis) > 2 * np.linalg.norm(t.matrix - basis)


@pytest.mark.parametrize("k", [1, 5, 500])
def test_semantic_lens_equals_a_stable_sort(k):
    subject = np.round(SUBJECT)  # many ties
    t = fit(subject, ATLAS, ("semantic_lens",), options=Options(k=k), batch_rows=37)
    order = np.argsort(-subject, axis=0, kind="stable")[:k]
    expected = np.stack([ATLAS[order[:, j]].mean(0) for j in range(DS)])
    np.testing.assert_allclose(t["semantic_lens"].matrix, expected, atol=1e-6)


@pytest.mark.parametrize("batch_rows", [1, 7, 128, 1000])
def test_batch_size_plays_no_role(batch_rows):
    whole = fit(SUBJECT, ATLAS, ALL, batch_rows=N)
    split = fit(SUBJECT, ATLAS, ALL, batch_rows=batch_rows)
    for name in ALL:
        scale = np.abs(whole[name].matrix).max()
        np.testing.assert_allclose(split[name].matrix, whole[name].matrix, atol=2e-5 * scale)


def test_a_mesh_plays_no_role():
    mesh = make_mesh()
    plain, spread = fit(SUBJECT, ATLAS, ALL), fit(SUBJECT, ATLAS, ALL, mesh=mesh, batch_rows=200)
    for name in ALL:
        np.testing.assert_allclose(spread[name].matrix, plain[name].matrix, atol=2e-5)
    assert mesh.shape["data"] == len(jax.devices()) == 8


def test_permuting_features_permutes_the_translation():
    order = RNG.permutation(DS)
    plain, moved = fit(SUBJECT, ATLAS, ALL), fit(SUBJECT[:, order], ATLAS, ALL)
    for name in ALL:
        np.testing.assert_allclose(moved[name].matrix, plain[name].matrix[order], atol=2e-5)


def test_scaling_leaves_correlation_and_semantic_lens():
    scale = RNG.uniform(0.1, 10, DS).astype(np.float32)
    for name in ("correlation", "semantic_lens"):
        plain, scaled = (fit(a, ATLAS, (name,))[name].matrix for a in (SUBJECT, SUBJECT * scale))
        np.testing.assert_allclose(scaled, plain, atol=1e-5)


def test_dead_features_come_out_as_zeros():
    subject, atlas = SUBJECT.copy(), ATLAS.copy()
    subject[:, 2], atlas[:, 9] = 0, 0
    maps = fit(subject, atlas, EVERY)
    query = np.zeros(DC, np.float32)
    query[9] = 1
    for name in EVERY:
        assert not maps[name].matrix[2].any(), name
        assert not maps[name].matrix[:, 9].any(), name
        assert not maps[name].scores(query).any()
    constant = SUBJECT.copy()
    constant[:, 2] = 3.7
    for name in ("correlation", "semantic_lens"):
        assert not fit(constant, ATLAS, (name,))[name].matrix[2].any()


def test_one_pass_serves_several_sites():
    both = fit({"a": SUBJECT, "b": SUBJECT[:, :5]}, ATLAS, ALL)
    alone = fit(SUBJECT[:, :5], ATLAS, ALL)
    for name in ALL:
        np.testing.assert_allclose(both["b"][name].matrix, alone[name].matrix, atol=1e-6)
    assert both["a"]["ridge"].meta["subject"]["site"] == "a"


def test_bad_input():
    with pytest.raises(InputError, match="among covariance.*got cca"):
        fit(SUBJECT, ATLAS, ("cca",))
    with pytest.raises(InputError, match="same samples"):
        fit(SUBJECT[:10], ATLAS)
    bad = SUBJECT.copy()
    bad[250, 3] = np.inf
    with pytest.raises(InputError, match="row 250"):
        fit(bad, ATLAS)
    with pytest.raises(InputError, match="string 'ridge'"):
        fit(SUBJECT, ATLAS, "ridge")


def test_scores_are_equation_3():
    t = Translation("ridge", RNG.standard_normal((5, 7)).astype(np.float32))
    q = RNG.standard_normal(7).astype(np.float32)
    unit = t.matrix / np.linalg.norm(t.matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(t.scores(q), unit @ q / np.linalg.norm(q), rtol=1e-5)
    np.testing.assert_allclose(t.scores(3 * q), t.scores(q), rtol=1e-5)
    np.testing.assert_allclose(t.directions(np.array([4]))[:, 0], t.scores(np.eye(7)[4]), rtol=1e-5)
    for bad in (np.zeros(7), np.full(7, np.nan), np.ones(6)):
        with pytest.raises(InputError, match="Expected a query"):
            t.scores(bad)


def test_saved_translations_come_back_whole(tmp_path):
    t = fit(SUBJECT, ATLAS, ("procrustes",))["procrustes"]
    path = t.save(tmp_path / "deep" / "procrustes.safetensors")
    back = Translation.load(path)
    np.testing.assert_array_equal(back.matrix, t.matrix)
    assert back.method == "procrustes" and back.meta == t.meta
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        Translation.load(path)
    with pytest.raises(InputError, match="no such file"):
        Translation.load(tmp_path / "none.safetensors")
