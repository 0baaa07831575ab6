"""Numbers at the edge: what every method does with them, against float64."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import Ridge

import atlas_jax as aj
from atlas_jax.errors import InputError
from atlas_jax.translate import Options, Translation, fit
from atlas_jax.translate.device_sums import DeviceSums
from atlas_jax.translate.host_sums import HostSums
from atlas_jax.translate.linear import correlation, covariance
from atlas_jax.translate.methods import METHODS
from atlas_jax.translate.moments import Wanted
from atlas_jax.translate.rows import LARGEST

RNG = np.random.default_rng(0)
CHOSEN = {"gcv": Options(alpha="gcv"), "kfold": Options(alpha="kfold", folds=2)}
WAYS = [(name, "") for name in METHODS] + [("ridge", how) for how in CHOSEN]


def pair(n=120, ds=7, dc=11):
    """Dense rows, and rows of which most entries are zero."""
    hidden = RNG.standard_normal((n, 4))
    subject = hidden @ RNG.standard_normal((4, ds)) + 0.3 * RNG.standard_normal((n, ds))
    atlas = np.maximum(hidden @ RNG.standard_normal((4, dc)) - 1.0, 0)
    return subject.astype(np.float32), atlas.astype(np.float32)


def solved(subject, atlas, way, **how):
    method, choice = way
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit(subject, atlas, (method,), options=CHOSEN.get(choice, Options()), **how)
    matrix = found[method].matrix
    assert np.isfinite(matrix).all()
    return matrix


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("side", ["blocks.3.mlp.hook_post", "the atlas"])
@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_multiplied_is_refused_by_row_and_feature(method, side, value):
    subject, atlas = pair()
    (atlas if side == "the atlas" else subject)[77, 5] = value
    with pytest.raises(InputError, match=f"row 77 of {side} has .* at feature 5") as error:
        fit({"blocks.3.mlp.hook_post": subject}, atlas, (method,), batch_rows=32)
    assert one_line(error) and (f"{LARGEST:g}" in str(error.value)) == bool(np.isfinite(value))


def test_the_largest_values_that_are_taken_do_not_overflow():
    subject, atlas = pair()
    big = np.float32(LARGEST / 100)
    for way in WAYS:
        if way[0] == "procrustes_exact":  # a local minimum: rounding chooses which
            assert solved(subject * big, atlas * big, way).any()
            continue
        assert np.allclose(
            cosines(solved(subject * big, atlas * big, way), solved(subject, atlas, way)), 1
        ), way


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("value", [0.1, 3.0, 1e7])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_constant_features_have_no_covariance_not_even_of_rounding(value, layout):
    subject, atlas = pair(5000)
    subject[:, 2], atlas[:, 4] = value, value
    for method in ("covariance", "correlation"):
        found = fit(subject, atlas, (method,), layout=layout, batch_rows=256)[method]
        assert not found.matrix[2].any() and not found.matrix[:, 4].any()
        assert (np.delete(np.delete(found.matrix, 2, 0), 4, 1) != 0).all()
        assert found.scores(np.eye(11, dtype=np.float32)[0])[2] == 0
    lens = fit(subject, atlas, ("semantic_lens",))["semantic_lens"].matrix
    assert not lens[2].any() and lens[0].any()


@pytest.mark.parametrize("way", WAYS)
def test_duplicates_are_treated_alike(way):
    subject, atlas = pair()
    matrix = solved(np.repeat(subject, 2, axis=1), np.repeat(atlas, 2, axis=1), way)
    size = np.abs(matrix).max()
    assert np.abs(matrix[::2] - matrix[1::2]).max() < 1e-4 * size
    assert np.abs(matrix[:, ::2] - matrix[:, 1::2]).max() < 1e-4 * size


@pytest.mark.parametrize("way", WAYS)
def test_an_atlas_of_zeros_gives_zeros(way):
    subject, atlas = pair()
    assert not solved(subject, atlas * 0, way).any()
    assert not solved(subject * 0, atlas, way).any()


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("way", [way for way in WAYS if way != ("ridge", "kfold")])
def test_fewer_samples_than_features(way, n):
    subject, atlas = pair(n, 12, 20)
    atlas[:, 0] = 1.0 + np.arange(n)  # a row of zeros is another edge
    matrix = solved(subject, atlas, way)
    s, c = subject.astype(np.float64), atlas.astype(np.float64)
    unit_s, unit_c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, c))
    if way == ("linear_regression", ""):
        expected = (np.linalg.pinv(c) @ s).T  # of least norm among those that interpolate
        assert np.allclose(c @ matrix.T, s, atol=1e-4)
    elif way == ("ridge", ""):
        alpha = np.trace(c.T @ c) / 20
        expected = Ridge(alpha=alpha, fit_intercept=False).fit(c, s).coef_
    elif way[0] == "procrustes":
        u, sigma, vt = np.linalg.svd(unit_s.T @ unit_c)
        rank = int((sigma > 3e-7 * sigma[0]).sum())
        expected = u[:, :rank] @ vt[:rank]
    elif n == 1 and way[0] in ("covariance", "correlation", "semantic_lens"):
        expected = np.zeros((12, 20))  # one sample says nothing of what goes with what
    else:
        return
    assert np.allclose(matrix, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_folds_need_two_samples():
    with pytest.raises(InputError, match="at least two samples to choose alpha by folds, got 1"):
        fit(*pair(1), ("ridge",), options=CHOSEN["kfold"])


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_without_features_or_samples(side):
    rows = list(pair())
    rows[side] = rows[side][:, :0]
    with pytest.raises(InputError, match="at least one feature on each side"):
        fit(*rows)
    with pytest.raises(InputError, match="at least one sample"):
        fit(*(part[:0] for part in pair()))


def test_more_subject_features_than_atlas_features():
    subject, atlas = pair(200, 30, 6)
    matrix = solved(subject, atlas, ("procrustes", "")).astype(np.float64)
    assert np.allclose(matrix.T @ matrix, np.eye(6), atol=1e-5)
    s, c = subject.astype(np.float64), atlas.astype(np.float64)
    lengths = np.linalg.norm(c, axis=1, keepdims=True)
    c = np.divide(c, lengths, where=lengths > 0, out=np.zeros_like(c))
    unit = s / np.linalg.norm(s, axis=1, keepdims=True)
    expected, _ = scipy.linalg.polar(unit.T @ c)
    assert np.allclose(matrix, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["linear_regression", "procrustes", "procrustes_exact"])
def test_rows_of_zeros_are_as_if_they_were_not_there(method):
    subject, atlas = pair()
    atlas[:, 0] += 1.0
    padded = [np.concatenate([x[:50], np.zeros_like(x[:9]), x[50:]]) for x in (subject, atlas)]
    without, with_them = solved(subject, atlas, (method, "")), solved(*padded, (method, ""))
    assert np.allclose(without, with_them, atol=2e-5 * max(1.0, np.abs(without).max()))


def sums_of(engine, subject, atlas):
    wanted, widths, width = Wanted(cross=True), {"": subject.shape[1]}, atlas.shape[1]
    if engine == "device":
        sums = DeviceSums(widths, width, wanted, batch_rows=512)
    else:
        sums = HostSums(widths, width, wanted, layout=engine)
    for start in range(0, len(subject), 512):
        part = slice(start, start + 512)
        stop = min(start + 512, len(subject))
        sums.add({"": subject[part]}, sums.prepare(atlas[part]), start, stop)
    return sums.moments()


@pytest.mark.parametrize("engine", ["dense", "sparse", "device"])
@pytest.mark.parametrize(
    ("far_s", "far_c", "sd"),
    [(1e7, 0, 4), (1e7, 0, 100), (1e7, 1e7, 100), (0, 1e7, 1000), (1e7, 1e7, 10), (1e4, 1e4, 1)],
)
def test_offsets_cost_no_more_than_float64_rounding_of_the_means(engine, far_s, far_c, sd):
    """|T - oracle| <= sd_s sd_c (1e-6 + 8 eps (1 + m_s / sd_s)(1 + m_c / sd_c)), eps of float64."""
    hidden = RNG.standard_normal((3000, 6))

    def side(width, far):
        rows = hidden @ RNG.standard_normal((6, width)) / 2.5
        return ((rows + 0.3 * RNG.standard_normal((3000, width))) * sd + far).astype(np.float32)

    subject, atlas = side(8, far_s), side(10, far_c)
    s, c = (x.astype(np.longdouble) - x.astype(np.longdouble).mean(0) for x in (subject, atlas))
    reference = (s.T @ c / 3000).astype(np.float64)
    units = [x.std(0).astype(np.float64) for x in (s, c)]
    ratio = [1 + abs(far) / unit for far, unit in zip((far_s, far_c), units, strict=True)]
    eps = np.finfo(np.float64).eps
    moments = sums_of(engine, subject, atlas)
    found = covariance(moments.n, moments.sites[""], moments.atlas)
    scaled = np.abs(found - reference) / np.outer(*units)
    assert (scaled < 1e-6 + 8 * eps * np.outer(*ratio)).all()
    found = correlation(moments.n, moments.sites[""], moments.atlas)
    squared = [8 * eps * np.square(r) for r in ratio]
    bound = 1e-6 + 8 * eps * np.outer(*ratio) + np.add.outer(*squared)
    if max(map(np.max, ratio)) < 1e6:  # beyond, a feature counts as constant
        assert (np.abs(found - reference / np.outer(*units)) < bound).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_queries_of_any_size(size):
    matrix = RNG.standard_normal((5, 8)).astype(np.float32)
    q = RNG.standard_normal(8).astype(np.float32)
    translation, small = Translation("covariance", matrix), Translation("c", matrix * 1e-25)
    assert np.allclose(translation.scores(q * np.float32(size)), translation.scores(q), atol=1e-6)
    assert np.allclose(small.scores(q), translation.scores(q), atol=1e-6)
    for bad in (q * 0, np.full(8, np.nan, np.float32)):
        with pytest.raises(InputError, match="finite and not zero"):
            translation.scores(bad)


def test_a_translation_with_nan_is_refused_wherever_it_is_used():
    subject, atlas = pair()
    matrix = RNG.standard_normal((7, 11)).astype(np.float32)
    matrix[3, 2] = np.nan
    bad = Translation("covariance", matrix)
    for use in (
        lambda: bad.scores(np.ones(11, np.float32)),
        lambda: aj.compare(bad, bad),
        lambda: aj.evaluate_translation({"bad": bad}, subject, atlas, min_positive=1),
    ):
        with pytest.raises(InputError, match="finite translation, row 3") as error:
            use()
        assert one_line(error)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_evaluation_refuses_what_is_not_finite(side, value):
    rows = pair()
    translation = fit(*rows, ("covariance",))["covariance"]
    rows[side][61, 1] = value
    with pytest.raises(InputError, match="row 61 of the activations has"):
        aj.evaluate_translation({"t": translation}, *rows, min_positive=1)
    with pytest.raises(InputError, match="row 61 of X has"):
        rows[0][61] = value
        aj.TranslationTransformer.of(translation).transform(rows[0])


def test_scores_that_say_nothing_rank_as_chance_does():
    subject, atlas = pair()
    nothing = Translation("covariance", np.zeros((7, 11), np.float32))
    for rows in (subject, subject * 0, subject * 0 + 1):
        report = aj.evaluate_translation({"t": nothing}, rows, atlas, min_positive=1, cosine=True)
        assert (report.values["t"]["auroc"] == 0.5).all()
        assert np.allclose(report.values["t"]["ap"], report.positives / len(subject))
    with pytest.raises(InputError, match="Expected at least one feature to evaluate"):
        aj.evaluate_translation({"t": nothing}, subject[:1], atlas[:1], min_positive=1)


@pytest.mark.parametrize("pool", ["max", "mean", "absmax", "last"])
def test_a_row_of_padding_pools_to_what_is_refused_and_leaves_the_others_alone(pool):
    from atlas_jax.activations.pool import POOLS
    from atlas_jax.activations.writer import check_finite

    acts = RNG.standard_normal((3, 4, 2)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    acts, mask = jnp.asarray(acts), jnp.asarray(mask)
    found = np.asarray(POOLS[pool](acts, mask))
    assert np.array_equal(found[:1], np.asarray(POOLS[pool](acts[:1], mask[:1])))
    with pytest.raises(InputError, match="row 11 has NaN or infinity"):
        check_finite("blocks.0.hook_resid_post", 10, found)


def bridged(x, y, **ridge):
    from atlas_jax.verbalize.bridge_moments import PairSums
    from atlas_jax.verbalize.fit_bridge import Ridge as BridgeRidge
    from atlas_jax.verbalize.fit_bridge import solve_bridge

    sums = PairSums(2, 0)
    sums.add(x, y, 4 + np.arange(len(x)) % 4)
    return solve_bridge(sums.moments({"source": {}, "target": {}}), BridgeRidge(**ridge))


@pytest.mark.parametrize("scaling", ["x_std", "none"])
def test_a_bridge_from_what_never_changes_predicts_the_mean(scaling, capfd):
    x, y = np.full((40, 5), 3.0, np.float32), RNG.standard_normal((40, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bridge = bridged(x, y, scaling=scaling)
    assert not bridge.matrix.any() and np.allclose(bridge.point(x[0]), y.mean(0), atol=1e-6)
    assert "illegal" not in "".join(capfd.readouterr())  # LAPACK writes there


def test_a_bridge_with_dead_duplicate_and_far_dimensions():
    x = RNG.standard_normal((400, 5)).astype(np.float32)
    y = (x @ RNG.standard_normal((5, 3))).astype(np.float32)
    tau = 1e-3
    far = np.concatenate([x[:, :1], x, np.ones_like(x[:, :1])], axis=1) * np.float32(64)
    far = far + np.float32(1e7)
    bridge = bridged(far, y, choose=tau)
    z = far.astype(np.float64) - far.astype(np.float64).mean(0)
    live = z.std(0) > 0
    z = z[:, live] / z.std(0)[live]
    expected = Ridge(alpha=tau * 400).fit(z, y.astype(np.float64))
    assert not bridge.matrix[:, ~live].any()
    # The intercept of M x + c cancels at 1e7; `points` goes by what is left of the mean.
    assert np.allclose(bridge.points(far), expected.predict(z), atol=1e-5)


def test_a_bridge_of_too_few_pairs():
    with pytest.raises(InputError, match="at least two pairs in each share"):
        bridged(np.ones((1, 3), np.float32), np.ones((1, 2), np.float32))


@pytest.mark.parametrize("method", ["covariance", "correlation", "procrustes"])
def test_what_is_too_small_to_square_counts_as_zero(method):
    subject, atlas = pair()
    atlas[:, 0] += 1.0
    small, none = subject.copy(), subject.copy()
    small[30:40], none[30:40] = subject[30:40] * np.float32(1e-30), 0
    assert np.allclose(solved(small, atlas, (method, "")), solved(none, atlas, (method, "")))
    assert not solved(subject * np.float32(1e-30), atlas, (method, "")).any()
