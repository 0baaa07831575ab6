"""The streamed sums equal float64 sums of all rows: on the host, sparse or dense, on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh
from atlas_jax.translate.device_sums import DeviceSums, _product
from atlas_jax.translate.host_rows import compress
from atlas_jax.translate.host_sums import HostSums
from atlas_jax.translate.moments import Moments, Wanted

RNG = np.random.default_rng(0)
N, DS, DC = 300, 7, 11
SUBJECT = (RNG.standard_normal((N, DS)) * RNG.uniform(0.1, 30, DS) + 200).astype(np.float32)
ATLAS = np.maximum(RNG.standard_normal((N, DC)) - 1, 0).astype(np.float32)
ATLAS[:, 4] = RNG.uniform(1, 2, N)  # a column that is always active
ALL = Wanted(cross=True, gram="float64", unit=True, unit_gram=True, top=5)
NAMES = ("total", "squares", "unit_total")


def units(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 0, rows / np.where(length > 0, length, 1), 0)


def expected(subject, atlas) -> Moments:
    s, c = subject.astype(np.float64), atlas.astype(np.float64)
    us, uc = units(s), units(c)
    found = Moments.zeros({"a": s.shape[1]}, c.shape[1], Wanted())
    found.n, side, site = len(s), found.atlas, found.sites["a"]
    side.total, side.squares, side.unit_total = c.sum(0), (c**2).sum(0), uc.sum(0)
    site.total, site.squares, site.unit_total = s.sum(0), (s**2).sum(0), us.sum(0)
    side.gram, side.unit_gram = np.triu(c.T @ c), np.triu(uc.T @ uc)
    site.cross, site.unit = c.T @ s, uc.T @ us
    return found


def stream(sums, subject, atlas, cuts=(), first=0):
    for start, stop in zip([0, *cuts], [*cuts, len(subject)], strict=True):
        if stop > start:
            rows = sums.prepare(atlas[start:stop])
            sums.add({"a": subject[start:stop]}, rows, first + start, first + stop)
    return sums


def check(found: Moments, wanted: Moments, rtol=2e-6):
    assert found.n == wanted.n
    pairs = [(found.atlas, wanted.atlas, (*NAMES, "gram", "unit_gram"))]
    pairs.append((found.sites["a"], wanted.sites["a"], (*NAMES, "cross", "unit")))
    for mine, theirs, names in pairs:
        for name in names:
            value, reference = getattr(mine, name), getattr(theirs, name)
            value = np.triu(value) if "gram" in name else value
            scale = np.abs(reference).max()
            np.testing.assert_allclose(value, reference, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_host_sums_equal_float64(layout):
    sums = stream(HostSums({"a": DS}, DC, ALL, layout=layout), SUBJECT, ATLAS, [64, 128, 299])
    check(sums.moments(), expected(SUBJECT, ATLAS))
    gram = np.triu(ATLAS.astype(np.float64).T @ ATLAS.astype(np.float64))
    np.testing.assert_allclose(np.triu(sums.moments().atlas.gram), gram, rtol=1e-13)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_a_block_of_atlas_features(layout):
    whole = expected(SUBJECT, ATLAS)
    for a, b in [(0, 4), (3, 9), (4, 11)]:
        sums = HostSums({"a": DS}, DC, ALL, (a, b), layout)
        found = stream(sums, SUBJECT, ATLAS, [100]).moments()
        np.testing.assert_allclose(found.sites["a"].cross, whole.sites["a"].cross[a:b], rtol=1e-6)
        np.testing.assert_allclose(found.sites["a"].unit, whole.sites["a"].unit[a:b], rtol=1e-5)
        upper = np.triu(np.ones((DC, DC), bool))[a:b]
        for name in ("gram", "unit_gram"):
            value, reference = getattr(found.atlas, name), getattr(whole.atlas, name)[a:b]
            np.testing.assert_allclose(value[upper], reference[upper], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (1, 8)])
def test_a_mesh_equals_float64(shape):
    mesh = make_mesh(*shape)
    sums = DeviceSums({"a": DS}, DC, ALL, batch_rows=100, mesh=mesh)
    found = stream(sums, SUBJECT, ATLAS, [100, 133, 233]).moments()
    check(found, expected(SUBJECT, ATLAS))
    host = stream(HostSums({"a": DS}, DC, ALL), SUBJECT, ATLAS).moments()
    for mine, theirs in zip(found.sites["a"].top, host.sites["a"].top, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    block = DeviceSums({"a": DS}, DC, ALL, (3, 8), batch_rows=300, mesh=mesh)
    part = stream(block, SUBJECT, ATLAS).moments()
    np.testing.assert_allclose(part.sites["a"].cross, found.sites["a"].cross[3:8], rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, N - 1), max_size=6, unique=True).map(sorted),
    st.sampled_from(["auto", "sparse", "dense"]),
)
def test_any_split_gives_the_same_moments(cuts, layout):
    sums = HostSums({"a": DS}, DC, ALL, layout=layout)
    check(stream(sums, SUBJECT, ATLAS, cuts).moments(), expected(SUBJECT, ATLAS))


@settings(max_examples=15, deadline=None)
@given(st.permutations([(0, 90), (90, 130), (130, N)]), st.booleans())
def test_merge_is_associative_and_free_of_order(spans, left):
    def part(a, b):
        sums = HostSums({"a": DS}, DC, ALL)
        return stream(sums, SUBJECT[a:b], ATLAS[a:b], first=a).moments()

    x, y, z = (part(*span) for span in spans)
    merged = x.merge(y).merge(z) if left else x.merge(y.merge(z))
    check(merged, expected(SUBJECT, ATLAS))
    whole = stream(HostSums({"a": DS}, DC, ALL), SUBJECT, ATLAS).moments()
    for mine, theirs in zip(merged.sites["a"].top, whole.sites["a"].top, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_runs_one_after_the_other_number_their_samples_so():
    parts = [
        stream(HostSums({"a": DS}, DC, ALL), SUBJECT[a:b], ATLAS[a:b]).moments()
        for a, b in [(0, 120), (120, N)]
    ]
    merged = parts[0].merge(parts[1], after=True)
    whole = stream(HostSums({"a": DS}, DC, ALL), SUBJECT, ATLAS).moments()
    np.testing.assert_array_equal(merged.sites["a"].top.indices, whole.sites["a"].top.indices)


@pytest.mark.parametrize("kind", [HostSums, DeviceSums])
def test_sums_go_on_from_saved_ones(kind):
    def make(start=None):
        return kind({"a": DS}, DC, ALL, start=start)

    half = stream(make(), SUBJECT[:150], ATLAS[:150]).moments()
    whole = stream(make(half), SUBJECT[150:], ATLAS[150:], first=150).moments()
    check(whole, expected(SUBJECT, ATLAS))
    check(make(whole).moments(), expected(SUBJECT, ATLAS))


def test_moments_may_be_taken_while_rows_are_added():
    sums = HostSums({"a": DS}, DC, ALL, layout="dense")
    stream(sums, SUBJECT[:100], ATLAS[:100])
    check(sums.moments(), expected(SUBJECT[:100], ATLAS[:100]))
    rows = sums.prepare(ATLAS[100:])
    sums.add({"a": SUBJECT[100:]}, rows, 100, N)
    check(sums.moments(), expected(SUBJECT, ATLAS))


@pytest.mark.parametrize("kind", [HostSums, DeviceSums])
def test_a_large_mean_costs_no_precision(kind):
    rows = (RNG.standard_normal((2048, 4)) + 1e4).astype(np.float32)
    sums = kind({"a": 4}, 4, Wanted(cross=True))
    found = stream(sums, rows, rows, list(range(256, 2048, 256))).moments()
    mean = found.sites["a"].total / found.n
    covariance = found.sites["a"].cross / found.n - np.outer(mean, mean)
    reference = np.cov(rows.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(covariance, reference, atol=2e-6)
    naive = rows.T @ rows / 2048 - np.outer(rows.mean(0), rows.mean(0))
    assert np.abs(naive - reference).max() > 1e-3  # what the shift is for


def test_the_layout_follows_the_share_of_nonzeros():
    def chosen(share):
        atlas = np.where(RNG.random((500, 40)) < share, 1, 0).astype(np.float32)
        sums = HostSums({"a": 2}, 40, Wanted(cross=True))
        sums.prepare(atlas)
        assert sums.density == pytest.approx(share, abs=0.02)
        return sums.layout

    assert [chosen(share) for share in (0.01, 0.5)] == ["sparse", "dense"]
    with pytest.raises(InputError, match="auto, sparse, dense, got 'thin'"):
        HostSums({"a": 2}, 40, Wanted(), layout="thin")


def test_compressed_rows_are_scipys():
    kept = RNG.random(DC) < 0.7
    mine, theirs = compress(ATLAS, kept), scipy.sparse.csr_array(np.where(kept, ATLAS, 0))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


def test_products_ask_for_full_precision():
    jaxpr = str(jax.make_jaxpr(_product)(jnp.ones((4, 2)), jnp.ones((4, 3))))
    assert "HIGHEST" in jaxpr and "preferred_element_type=float32" in jaxpr
