"""The polar factor against float64 SVD, and at every kind of rank deficiency."""

import numpy as np
import pytest
import scipy.linalg

from atlas_jax.errors import InputError
from atlas_jax.translate.polar import polar

RNG = np.random.default_rng(1)


def spectrum(m, n, condition):
    u, _, vt = scipy.linalg.svd(RNG.standard_normal((m, n)), full_matrices=False)
    return (u * np.geomspace(1, 1 / condition, min(m, n))) @ vt


@pytest.mark.parametrize("shape", [(20, 33), (33, 20), (24, 24)])
@pytest.mark.parametrize("condition", [1e1, 1e5])
@pytest.mark.parametrize("method", ["auto", "gram", "svd"])
def test_equals_the_svd(shape, condition, method):
    matrix = spectrum(*shape, condition)
    u, _, vt = scipy.linalg.svd(matrix, full_matrices=False)
    result = polar(matrix, method)
    np.testing.assert_allclose(result.factor, u @ vt, atol=1e-8)
    assert result.rank == min(shape) and result.residual < 1e-9


def test_equals_scipy_orthogonal_procrustes():
    a, b = RNG.standard_normal((90, 12)), RNG.standard_normal((90, 12))
    expected, _ = scipy.linalg.orthogonal_procrustes(a, b)
    np.testing.assert_allclose(polar(a.T @ b).factor, expected, atol=1e-10)


def test_dead_and_duplicate_features_give_a_partial_isometry():
    matrix = RNG.standard_normal((16, 30))
    matrix[3], matrix[:, 5], matrix[8] = 0, 0, matrix[9]
    result = polar(matrix)
    assert result.rank == 14
    assert not result.factor[3].any() and not result.factor[:, 5].any()
    np.testing.assert_allclose(result.factor[8], result.factor[9], atol=1e-10)
    projector = result.factor @ result.factor.T
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-10)
    assert np.trace(projector) == pytest.approx(14)


def test_a_value_near_the_cut_is_decided_by_the_svd():
    values = np.r_[np.ones(9), 6e-7]
    u, v = (np.linalg.qr(RNG.standard_normal((n, 10)))[0] for n in (10, 15))
    matrix = (u * values) @ v.T
    result = polar(matrix)
    assert result.method == "svd" and result.rank == 10
    np.testing.assert_allclose(result.factor, u @ v.T, atol=1e-7)
    assert polar(matrix, rcond=1e-5).rank == 9
    assert polar(spectrum(10, 15, 10)).method == "gram"


def test_the_maximum_is_attained():
    matrix = RNG.standard_normal((10, 14))
    best = np.sum(polar(matrix).factor * matrix)
    for _ in range(20):
        other = np.linalg.qr(RNG.standard_normal((14, 10)))[0].T
        assert np.sum(other * matrix) < best
    assert best == pytest.approx(scipy.linalg.svdvals(matrix).sum())


def test_zero_matrix_and_bad_input():
    assert polar(np.zeros((3, 4))).rank == 0
    with pytest.raises(InputError, match="finite"):
        polar(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="auto, gram"):
        polar(np.eye(2), "newton")
