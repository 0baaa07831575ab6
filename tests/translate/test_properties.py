"""What holds for any rows: planted maps, permutations, scales, every kind of deficient column."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atlas_jax.translate import METHODS, Options, fit

METHOD_NAMES = tuple(name for name in METHODS if name != "procrustes_exact")
KINDS = ("plain", "dead", "constant", "duplicate", "dependent")


@st.composite
def rows(draw, most=60):
    """Rows of both sides with columns of every kind, and fewer or more samples than features."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, ds, dc = draw(st.integers(3, most)), draw(st.integers(1, 9)), draw(st.integers(1, 12))
    atlas = np.maximum(rng.standard_normal((n, dc)) - draw(st.sampled_from([-1.0, 0.5])), 0)
    subject = atlas @ rng.standard_normal((dc, ds)) + rng.standard_normal((n, ds))
    for side in (atlas, subject):
        for column in range(side.shape[1]):
            kind = draw(st.sampled_from(KINDS)) if draw(st.integers(0, 3)) == 0 else "plain"
            others = side[:, (column + 1) % side.shape[1]], side[:, (column + 2) % side.shape[1]]
            if kind == "dead":
                side[:, column] = 0
            elif kind == "constant":
                side[:, column] = 1.5
            elif kind == "duplicate":
                side[:, column] = others[0]
            elif kind == "dependent":
                side[:, column] = others[0] + 2 * others[1]
    return subject.astype(np.float32), atlas.astype(np.float32)


def close(found, wanted, atol=2e-3, least=1e-6):
    scale = max(float(np.abs(wanted).max()), least)
    np.testing.assert_allclose(found, wanted, atol=atol * scale)


NOTHING = np.ones((3, 1), np.float32), np.zeros((3, 1), np.float32)  # an atlas that is silent


@settings(max_examples=25, deadline=None)
@given(rows(), st.integers(1, 70), st.sampled_from(["sparse", "dense"]))
@example(NOTHING, 1, "sparse")
def test_every_method_equals_its_definition_in_float64(pair, batch_rows, layout):
    subject, atlas = pair
    s, c = subject.astype(np.float64), atlas.astype(np.float64)
    options = Options(k=4)
    found = fit(*pair, METHOD_NAMES, options=options, batch_rows=batch_rows, layout=layout)
    n = len(s)
    covariance = (s - s.mean(0)).T @ (c - c.mean(0)) / n
    # Of what cancels, float32 activations keep 1e-7 of the size before.
    cancelled = 1e-4 * float(np.abs(s).max() * np.abs(c).max())
    close(found["covariance"].matrix, covariance, least=max(cancelled, 1e-6))
    deviations = [np.where(x.std(0) > 1e-6, x.std(0), np.inf) for x in (s, c)]
    correlation = covariance / deviations[0][:, None] / deviations[1][None, :]
    close(found["correlation"].matrix, correlation)
    alpha = max((c**2).sum() / c.shape[1], 1e-30)
    ridge = np.linalg.solve(c.T @ c + alpha * np.eye(c.shape[1]), c.T @ s).T
    close(found["ridge"].matrix, ridge)
    # The regression's own residual, and its norm, are the least: the solution itself is unstable
    # where a singular value is small.
    best = scipy.linalg.lstsq(c, s, cond=1e-6)[0].T
    mine = found["linear_regression"].matrix.astype(np.float64)
    size = np.linalg.norm(s) + 1e-9
    assert np.linalg.norm(s - c @ mine.T) <= np.linalg.norm(s - c @ best.T) + 1e-3 * size
    t = found["procrustes"].matrix.astype(np.float64)
    rank = found["procrustes"].meta["options"]["rank"]
    small = t @ t.T if len(t) <= t.shape[1] else t.T @ t
    close(small @ small, small)
    assert np.trace(small) == pytest.approx(rank, abs=1e-3)
    units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (s, c)]
    assert np.sum(t * (units[0].T @ units[1])) == pytest.approx(
        scipy.linalg.svdvals(units[0].T @ units[1]).sum(), rel=1e-3, abs=1e-3
    )
    live = s.max(0) > s.min(0)
    order = np.argsort(-subject, axis=0, kind="stable")[:4]
    lens = np.stack([c[order[:, j]].mean(0) * live[j] for j in range(s.shape[1])])
    close(found["semantic_lens"].matrix, lens)


@settings(max_examples=15, deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_permuting_subject_features_permutes_rows(pair, random):
    subject, atlas = pair
    order = list(range(subject.shape[1]))
    random.shuffle(order)
    names = ("covariance", "correlation", "ridge", "semantic_lens")
    plain, moved = fit(subject, atlas, names), fit(subject[:, order], atlas, names)
    for name in names:
        close(moved[name].matrix, plain[name].matrix[order], 1e-4)


@settings(max_examples=15, deadline=None)
@given(rows(), st.integers(-8, 8))
def test_scaling_leaves_correlation_and_semantic_lens(pair, power):
    subject, atlas = pair
    scale = (2.0 ** (power * np.arange(subject.shape[1]) / 4)).astype(np.float32)
    for name in ("correlation", "semantic_lens"):
        plain, scaled = (fit(a, atlas, (name,))[name].matrix for a in (subject, subject * scale))
        close(scaled, plain, 1e-3)


@settings(max_examples=15, deadline=None)
@given(rows())
def test_dead_features_are_exact_zeros_in_every_method(pair):
    found = fit(*pair, METHOD_NAMES)
    subject, atlas = pair
    for name in METHOD_NAMES:
        matrix = found[name].matrix
        assert np.isfinite(matrix).all()
        assert not matrix[~subject.any(axis=0)].any(), name
        assert not matrix[:, ~atlas.any(axis=0)].any(), name


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(0, 4))
def test_a_planted_partial_isometry_is_recovered(seed, ds, more):
    rng = np.random.default_rng(seed)
    dc = ds + more
    basis = np.linalg.qr(rng.standard_normal((dc, ds)))[0].T
    atlas = rng.standard_normal((12_000, dc)).astype(np.float32)
    subject = (atlas @ basis.T + 0.01 * rng.standard_normal((12_000, ds))).astype(np.float32)
    found = fit(subject, atlas, ("procrustes", "procrustes_exact", "linear_regression"))
    for name, tolerance in (("procrustes", 0.1), ("procrustes_exact", 0.02)):
        assert np.linalg.norm(found[name].matrix - basis) < tolerance * np.linalg.norm(basis), name
    np.testing.assert_allclose(found["linear_regression"].matrix, basis, atol=2e-3)
