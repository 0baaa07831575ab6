"""The bridge against refitting from the rows, in float64."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV

from atlas_jax.errors import InputError
from atlas_jax.verbalize import Bridge, BridgeMoments, Ridge, solve_bridge
from atlas_jax.verbalize.bridge_moments import PairSums, Sums
from atlas_jax.verbalize.fit_bridge import _fold_errors
from atlas_jax.verbalize.standardise import Standardised

from .conftest import FOLDS, make_rows

TAU = 0.005
TAUS = tuple(10.0**x for x in np.linspace(-5, 1, 7))


def direct(x, y, penalty):
    """Centred, scaled, solved; M and c in raw units."""
    sx, sy = x.std(0), y.std(0)
    z, t = (x - x.mean(0)) / sx, (y - y.mean(0)) / sy
    b = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ t)
    m = (b * sy / sx[:, None]).T
    return m, y.mean(0) - m @ x.mean(0), sx, sy


@pytest.fixture(scope="module")
def bridge(rows) -> Bridge:
    return solve_bridge(rows.moments(), Ridge(choose=TAU))


def test_equals_ridge_on_the_rows_with_an_intercept_that_is_not_penalised(rows, bridge):
    m, c, *_ = direct(rows.x, rows.y, TAU * len(rows.x))
    np.testing.assert_allclose(bridge.matrix, m, atol=1e-5 * abs(m).max())
    np.testing.assert_allclose(bridge.intercept, c, atol=1e-4 * abs(c).max())
    scaled = (rows.x - rows.x.mean(0)) / rows.x.std(0)
    sklearn = SklearnRidge(alpha=TAU * len(rows.x)).fit(scaled, rows.y)
    np.testing.assert_allclose(bridge.points(rows.x), sklearn.predict(scaled), rtol=1e-4, atol=1e-2)
    assert bridge.meta["n"] == len(rows.x)


def test_folds_from_moments_equal_refitting_without_each_fold(rows):
    moments = rows.moments()
    found, weights = _fold_errors(moments, Ridge(taus=TAUS))
    fold = rows.documents % (2 * FOLDS) // 2
    assert weights.tolist() == [(fold == k).sum() for k in range(FOLDS)]
    for k in range(FOLDS):
        out = fold == k
        for tau, error in zip(TAUS, found[k], strict=True):
            m, c, _, sy = direct(rows.x[~out], rows.y[~out], tau * (~out).sum())
            expected = (((rows.y[out] - c - rows.x[out] @ m.T) / sy) ** 2).mean()
            assert error == pytest.approx(expected, rel=2e-5)


def test_gcv_equals_the_hat_matrix_and_chooses_as_scikit_learn_does(rows):
    n = len(rows.x)
    made = solve_bridge(rows.moments(), Ridge(taus=TAUS, choose="gcv"))
    z, t = (rows.x - rows.x.mean(0)) / rows.x.std(0), (rows.y - rows.y.mean(0)) / rows.y.std(0)
    for tau, found in zip(TAUS, made.meta["path"]["gcv"], strict=True):
        hat = z @ np.linalg.solve(z.T @ z + tau * n * np.eye(z.shape[1]), z.T) + 1 / n
        gcv = ((t - hat @ t) ** 2).sum(0) / n / (1 - np.trace(hat) / n) ** 2
        assert found == pytest.approx(gcv.mean(), rel=1e-5)
    peer = RidgeCV(alphas=[tau * n for tau in TAUS]).fit(z, t)
    assert made.meta["lambda"] == pytest.approx(peer.alpha_)
    ours = made.matrix * rows.x.std(0) / rows.y.std(0)[:, None]
    np.testing.assert_allclose(ours, peer.coef_, atol=1e-4 * abs(peer.coef_).max())


def test_kfold_takes_the_largest_penalty_within_one_standard_error(rows):
    path = solve_bridge(rows.moments(), Ridge(taus=TAUS)).meta["path"]
    errors, spread = np.array(path["kfold"]), np.array(path["standard_error"])
    best = errors.argmin()
    within = [t for t, e in zip(TAUS, errors, strict=True) if e <= errors[best] + spread[best]]
    assert solve_bridge(rows.moments(), Ridge(taus=TAUS)).meta["tau"] == max(within)
    assert max(within) >= TAUS[best]


def test_scaling_the_target_never_changes_the_map_but_scaling_the_source_does(rows):
    base = solve_bridge(rows.moments(), Ridge(choose=TAU)).matrix
    wide = make_rows(0)
    factors = np.exp(np.linspace(-2, 2, wide.y.shape[1]))
    wide.y = wide.y * factors
    scaled = solve_bridge(wide.moments(), Ridge(choose=TAU)).matrix / factors[:, None]
    np.testing.assert_allclose(scaled, base, rtol=1e-3, atol=1e-5 * abs(base).max())
    none = solve_bridge(rows.moments(), Ridge(choose=TAU, scaling="none")).matrix
    assert abs(none - base).max() > 1e-2 * abs(base).max()


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_huge_means_cost_no_precision(offset):
    plain, moved = make_rows(3), make_rows(3)
    moved.x, moved.y = moved.x + offset, moved.y - offset
    a = solve_bridge(plain.moments(), Ridge(choose=TAU))
    b = solve_bridge(moved.moments(), Ridge(choose=TAU))
    np.testing.assert_allclose(b.matrix, a.matrix, rtol=1e-4, atol=1e-6 * abs(a.matrix).max())


def test_a_shift_of_sums_is_exact():
    rng = np.random.default_rng(0)
    x, y, by_x, by_y = (rng.standard_normal(s) for s in ((9, 3), (9, 4), 3, 4))

    def of(a, b):
        return Sums(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b, (b**2).sum(0))

    moved, expected = of(x, y).moved(by_x, by_y), of(x + by_x, y + by_y)
    for name in ("total_x", "total_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(moved, name), getattr(expected, name), atol=1e-12)


def test_neither_order_nor_blocks_nor_merging_change_the_map(rows):
    base = solve_bridge(rows.moments(), Ridge(choose=TAU)).matrix
    order = np.random.default_rng(1).permutation(len(rows.x))
    shuffled = solve_bridge(rows.moments(order=order, blocks=3), Ridge(choose=TAU)).matrix
    np.testing.assert_allclose(shuffled, base, atol=2e-5 * abs(base).max())
    first, second = rows.moments(order=order[:300]), rows.moments(order=order[300:])
    second.about["runs"] = ["b"]
    merged = first.merge(second)
    assert merged.n == len(rows.x) and merged.about["runs"] == ["a", "b"]
    again = solve_bridge(merged, Ridge(choose=TAU)).matrix
    np.testing.assert_allclose(again, base, atol=2e-5 * abs(base).max())


def test_the_same_texts_are_not_merged_twice(rows):
    with pytest.raises(InputError, match="twice"):
        rows.moments().merge(rows.moments())
    other = rows.moments()
    other.about |= {"runs": ["b"], "source": {"model": "another"}}
    with pytest.raises(InputError, match="same source"):
        rows.moments().merge(other)


def test_a_saved_run_is_refitted_and_gone_on_from(rows, tmp_path):
    half = PairSums(FOLDS, 0)
    half.add(rows.x[:300], rows.y[:300], rows.documents[:300])
    half.moments({"runs": ["a"]}).save(tmp_path / "m.safetensors")
    rest = PairSums(FOLDS, 0, BridgeMoments.load(tmp_path / "m.safetensors"))
    rest.add(rows.x[300:], rows.y[300:], rows.documents[300:])
    found = solve_bridge(rest.moments(), Ridge(choose=TAU))
    base = solve_bridge(rows.moments(), Ridge(choose=TAU))
    np.testing.assert_allclose(found.matrix, base.matrix, atol=2e-5 * abs(base.matrix).max())
    made = Bridge.load(base.save(tmp_path / "b.safetensors"))
    assert made.meta == base.meta and repr(made) == repr(base)
    d = np.random.default_rng(0).standard_normal((3, rows.x.shape[1]))
    for name in ("mapped", "reliability", "shrinkage", "split_half"):
        np.testing.assert_array_equal(getattr(made, name)(d), getattr(base, name)(d))
    with pytest.raises(InputError, match="no such file"):
        Bridge.load(tmp_path / "none")
    with pytest.raises(InputError, match="Expected a file of format"):
        Bridge.load(tmp_path / "m.safetensors")


def test_points_directions_and_covectors_are_three_things(rows, bridge):
    rng = np.random.default_rng(5)
    d, x = rng.standard_normal(rows.x.shape[1]), rows.x[3]
    step = bridge.point(x + 0.5 * d) - bridge.point(x)
    np.testing.assert_allclose(step / 0.5, bridge.mapped(d[None])[0], rtol=1e-4, atol=1e-3)
    unit = bridge.direction(d)
    np.testing.assert_allclose(np.linalg.norm(unit), 1)
    np.testing.assert_allclose(bridge.direction(-3 * d), -unit)
    np.testing.assert_allclose(
        bridge.point(bridge.mean_x + 2 * d), bridge.mean_y + 2 * bridge.mapped(d[None])[0]
    )
    e = bridge.covector(d)
    made = rows.x @ bridge.matrix.T.astype(float)
    np.testing.assert_allclose(made @ e, rows.x @ d, rtol=1e-4, atol=1e-3)
    assert abs(unit @ e / np.linalg.norm(e)) < 0.99
    # Directions taken for points collapse onto the intercept.
    many = rng.standard_normal((30, rows.x.shape[1]))
    as_points = bridge.points(many)
    as_points /= np.linalg.norm(as_points, axis=1, keepdims=True)
    off = ~np.eye(30, dtype=bool)
    made = bridge.directions(many)
    assert (as_points @ as_points.T)[off].mean() > 0.5 > abs((made @ made.T)[off].mean())


@pytest.mark.parametrize("bad", [np.zeros(12), np.ones(15), np.full(12, np.nan)])
def test_a_direction_must_be_one_of_the_source(bridge, bad):
    with pytest.raises(InputError, match="Expected"):
        bridge.direction(bad)


def test_held_out_quality_is_that_of_the_rows(rows):
    fresh = make_rows(0)
    out = np.arange(len(fresh.x)) < 120
    fresh.documents = fresh.documents % 10 + np.where(out, 0, 10)
    made = solve_bridge(fresh.moments(held=100), Ridge(choose=TAU))
    assert made.meta["n"] == len(fresh.x) - 120 and made.meta["fve"]["held_out_pairs"] == 100
    m, c, _, sy = direct(fresh.x[120:], fresh.y[120:], TAU * 580)
    y, guess = fresh.y[:100], fresh.x[:100] @ m.T + c
    mean = fresh.y[120:].mean(0)
    fve = made.meta["fve"]
    raw = 1 - ((y - guess) ** 2).sum() / ((y - mean) ** 2).sum()
    scaled = 1 - (((y - guess) / sy) ** 2).sum() / (((y - mean) / sy) ** 2).sum()
    assert fve["raw"] == pytest.approx(raw, abs=1e-5)
    assert fve["per_dimension"] == pytest.approx(scaled, abs=1e-5)
    u, v = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (y, guess))
    assert fve["cosine"] == pytest.approx((u * v).sum(1).mean(), abs=1e-6)
    expected = 1 - ((u - v) ** 2).sum() / ((u - u.mean(0)) ** 2).sum()
    assert fve["unit"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("tau", [1e-6, 0.01])
def test_reliability_predicts_how_well_a_direction_repeats(tau):
    """V7: E cos^2(M d, E M d) ~ t + (1 - t) / q over independent fits."""
    p, q, n, fits = 30, 40, 600, 60
    rng = np.random.default_rng(8)
    spread = np.exp(-5 * np.arange(p) / p)
    true = rng.standard_normal((q, p)) / np.sqrt(p)
    directions = np.eye(p)[[0, 7, 15, 29]]
    mapped, t, r, rho = [], [], [], []
    for _ in range(fits):
        x = rng.standard_normal((n, p)) * spread
        y = x @ true.T + 0.5 * rng.standard_normal((n, q))
        sums = PairSums(FOLDS, 0)
        sums.add(x, y, rng.integers(10, 20, n))
        made = solve_bridge(sums.moments({}), Ridge(choose=tau))
        mapped.append(made.directions(directions))
        t.append(made.reliability(directions))
        r.append(made.split_half(directions))
        rho.append(made.shrinkage(directions))
    mean = directions @ true.T  # what M d is without noise: the inputs are independent
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    squared = (np.einsum("fij,ij->fi", np.array(mapped), mean) ** 2).mean(axis=0)
    found, half = np.mean(t, axis=0), np.mean(r, axis=0)
    np.testing.assert_allclose(squared, found + (1 - found) / q, atol=0.08)
    np.testing.assert_allclose(2 * half / (1 + half), found, atol=0.08)
    assert found[0] > 0.95 > 0.3 > found[-1]
    assert (np.abs(rho) <= 1 + 1e-6).all() and np.mean(rho, axis=0)[0] > 0.9


def test_a_common_component_is_seen_and_taken_out(rows, bridge):
    from atlas_jax.verbalize.bridge import removed

    assert bridge.common_component() > 0.2
    common = bridge.project_out(2)
    np.testing.assert_allclose(common @ common.T, np.eye(2), atol=1e-9)
    left = removed(bridge.directions(np.eye(rows.x.shape[1])), common)
    np.testing.assert_allclose(left @ common.T, 0, atol=1e-9)
    share = bridge.top_share(np.eye(rows.x.shape[1]))
    assert ((share > 0.5) & (share <= 1)).all()


def test_wrong_wishes_are_refused(rows):
    moments = rows.moments()
    with pytest.raises(InputError, match="scaling among x_std, none"):
        solve_bridge(moments, Ridge(scaling="z"))
    with pytest.raises(InputError, match="'kfold', 'gcv' or a tau"):
        solve_bridge(moments, Ridge(choose="loo"))
    with pytest.raises(InputError, match="at least two pairs"):
        Standardised.of(Sums.zeros(2, 3), "x_std")
    with pytest.raises(InputError, match="got none"):
        PairSums(FOLDS).moments()
