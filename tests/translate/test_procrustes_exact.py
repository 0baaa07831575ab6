"""The minimiser of eq. 2: feasible, lower than the closed form, a stationary point."""

import numpy as np
import pytest

from atlas_jax.translate import fit
from atlas_jax.translate.polar import polar
from atlas_jax.translate.procrustes_exact import procrustes_exact

RNG = np.random.default_rng(4)
N, DS, DC = 2000, 14, 24


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def planted(noise=0.05, ds=DS, dc=DC):
    basis = np.linalg.qr(RNG.standard_normal((max(ds, dc), min(ds, dc))))[0].T
    basis = basis if ds <= dc else basis.T
    atlas = np.maximum(RNG.standard_normal((N, dc)) - 1, 0) * np.geomspace(1, 0.1, dc) + 1e-3
    subject = atlas @ basis.T + noise * RNG.standard_normal((N, ds))
    return unit(subject), unit(atlas), basis


def test_it_finds_the_minimum_of_the_objective():
    s, c, basis = planted()
    found = procrustes_exact(s.T @ c, np.triu(c.T @ c), N)
    t = found.factor
    np.testing.assert_allclose(t @ t.T, np.eye(DS), atol=1e-10)
    closed = polar(s.T @ c).factor
    values = [np.sum((s - c @ x.T) ** 2) / N for x in (closed, t)]
    np.testing.assert_allclose(found.objective, values, rtol=1e-8)
    assert values[1] < 0.9 * values[0]
    # No gradient is left along the constraint.
    gradient = 2 * (t @ (c.T @ c) - s.T @ c)
    inner = gradient @ t.T
    tangent = gradient - 0.5 * (inner + inner.T) @ t
    assert np.linalg.norm(tangent) < 2e-3 * np.linalg.norm(s.T @ c)
    # Majorisation, slow and sure, ends at the same value.
    slow, gram = closed, c.T @ c
    step = np.linalg.eigvalsh(gram)[-1] * np.eye(DC) - gram
    for _ in range(400):
        u, _, vt = np.linalg.svd(s.T @ c + slow @ step, full_matrices=False)
        slow = u @ vt
    assert values[1] <= np.sum((s - c @ slow.T) ** 2) / N * (1 + 1e-3)
    assert np.linalg.norm(t - basis) < np.linalg.norm(closed - basis)


def test_dead_features_stay_zero():
    s, c, _ = planted()
    s[:, 3], c[:, 5] = 0, 0
    found = procrustes_exact(s.T @ c, c.T @ c, N)
    assert found.rank == DS - 1
    assert not np.abs(found.factor[3]).max() > 1e-9
    np.testing.assert_allclose(np.linalg.svd(found.factor)[1][: DS - 1], 1, atol=1e-9)


def test_the_closed_form_is_exact_where_the_subject_is_wider():
    s, c, _ = planted(ds=20, dc=10)
    found = procrustes_exact(s.T @ c, c.T @ c, N)
    np.testing.assert_allclose(found.factor, polar(s.T @ c).factor)
    assert found.steps == 0 and found.objective[0] == found.objective[1]


@pytest.mark.parametrize("center", [False, True])
def test_the_fit_reports_both_objectives(center):
    from atlas_jax.translate import Options

    s, c, _ = planted()
    rows = (3 * s).astype(np.float32), (2 * c).astype(np.float32)
    maps = fit(*rows, ("procrustes_exact", "procrustes"), options=Options(center=center))
    about = maps["procrustes_exact"].meta["options"]
    if center:
        s, c = s - s.mean(0), c - c.mean(0)
    for name, key in (("procrustes", "objective_closed_form"), ("procrustes_exact", "objective")):
        t = maps[name].matrix.astype(float)
        value = np.sum((s - c @ t.T) ** 2) / np.sum(s**2)
        assert about[key] == pytest.approx(value, rel=1e-4)
    assert about["objective"] < about["objective_closed_form"]
