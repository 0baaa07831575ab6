"""The polar factor against float64 SVD, and at every kind of rank deficiency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh
from atlas_jax.translate.polar import polar
from atlas_jax.translate.polar_iteration import _product, _split_product, coefficients

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
    values = np.r_[np.ones(9), 4e-7]
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


@pytest.mark.parametrize("shape", [(20, 33), (33, 20)])
@pytest.mark.parametrize("condition", [1e1, 1e4])
@pytest.mark.parametrize(
    ("method", "precision", "error"),
    [
        ("polar_express", "float32", 3e-4),
        ("polar_express", "bf16x3", 3e-3),
        ("qdwh", "float32", 1e-9),
    ],
)
def test_iterations_equal_the_svd(shape, condition, method, precision, error):
    matrix = spectrum(*shape, condition)
    u, _, vt = scipy.linalg.svd(matrix, full_matrices=False)
    result = polar(matrix, method, precision=precision)
    assert result.method == method and result.rank == min(shape)
    assert np.linalg.norm(result.factor - u @ vt) < error * min(shape) ** 0.5
    assert result.residual < 1e-6
    small = (
        result.factor @ result.factor.T if shape[0] <= shape[1] else result.factor.T @ result.factor
    )
    np.testing.assert_allclose(small, np.eye(len(small)), atol=3e-6)


@pytest.mark.parametrize("method", ["polar_express", "qdwh"])
def test_iterations_leave_deficient_matrices_to_the_cut(method):
    matrix = RNG.standard_normal((16, 30))
    matrix[8] = matrix[9]
    result = polar(matrix, method)
    assert result.method == "gram" and result.rank == 15
    np.testing.assert_allclose(result.factor, polar(matrix, "svd").factor, atol=1e-9)
    dead = RNG.standard_normal((16, 30))
    dead[3] = 0
    result = polar(dead, method)  # a zero row is left out first
    assert result.method == method and result.rank == 15 and not result.factor[3].any()


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_a_mesh_plays_no_role(shape):
    matrix = spectrum(20, 33, 1e3)
    one, spread = (polar(matrix, "polar_express", mesh=m) for m in (None, make_mesh(*shape)))
    np.testing.assert_allclose(spread.factor, one.factor, atol=1e-5)


@pytest.mark.parametrize("least", [1e-2, 1e-5])
def test_the_polynomials_bring_the_whole_interval_to_one(least):
    x = np.geomspace(least, 1, 2000)
    for a, b, c in coefficients(least):
        x = a * x + b * x**3 + c * x**5
    np.testing.assert_allclose(x, 1, atol=1e-6)
    assert len(coefficients(least)) < 13


def test_products_ask_for_full_precision_or_three_of_bfloat16():
    x = jnp.ones((4, 4), jnp.float32)
    assert "HIGHEST" in str(jax.make_jaxpr(_product)(x, x))
    split = str(jax.make_jaxpr(_split_product)(x, x))
    assert split.count("dot_general") == 3 and split.count("reduce_precision") == 2
    exact = RNG.standard_normal((50, 50))
    found = _split_product(*(jnp.asarray(exact, jnp.float32),) * 2)
    assert np.abs(found - exact @ exact).max() < 1e-3  # one product of bfloat16: 0.05


def test_bad_precision():
    with pytest.raises(InputError, match="bf16x3, got 'tf32'"):
        polar(np.eye(3), "polar_express", precision="tf32")
