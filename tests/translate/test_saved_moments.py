"""Sums on disk and within a bound: resumed, in blocks, merged, refused."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh
from atlas_jax.translate import METHODS, MomentsFolder, Options, fit, fit_moments, merge_moments
from atlas_jax.translate import accumulate as accumulate_module
from atlas_jax.translate.column_blocks import bytes_per_column, column_blocks, parse_bytes
from atlas_jax.translate.moments import Moments, Wanted

RNG = np.random.default_rng(5)
N, DC = 260, 20
ATLAS = np.where(RNG.random((N, DC)) < 0.4, RNG.random((N, DC)), 0).astype(np.float32)
ATLAS[:, 7] = 0
SITES = {
    "a": (ATLAS @ RNG.standard_normal((DC, 12)) + RNG.standard_normal((N, 12))).astype("f4"),
    "b": RNG.standard_normal((N, 8)).astype(np.float32),
}
ALL = tuple(name for name in METHODS if name != "procrustes_exact")  # that ends at no fixed point
OPTIONS = Options(alpha="kfold", folds=3, k=9)


class Killed(Exception):
    pass


class Rows:
    """A matrix that can be told to fail, and that counts how often a row is read."""

    def __init__(self, array, texts="texts", fails=()):
        self.array, self.shape, self.fails = array, array.shape, list(fails)
        self.meta = {"texts": texts, "model": "m", "fingerprint": "f", "pool": "max"}
        self.reads = np.zeros(len(array), int)

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            if self.fails and rows.start <= self.fails[0] < rows.stop:
                self.fails.pop(0)
                raise Killed
            self.reads[rows] += 1
        return self.array[rows]


def same(found, wanted, atol=3e-5):
    assert found.keys() == wanted.keys()
    for site, methods in wanted.items():
        for name, translation in methods.items():
            scale = np.abs(translation.matrix).max()
            np.testing.assert_allclose(
                found[site][name].matrix, translation.matrix, atol=atol * scale, err_msg=name
            )


@pytest.fixture(scope="module")
def whole():
    return fit(SITES, ATLAS, ALL, options=OPTIONS)


@pytest.mark.parametrize("mesh", [None, (4, 2)])
def test_a_stopped_fit_goes_on(tmp_path, whole, mesh):
    atlas = Rows(ATLAS, fails=[130, 210])
    sides = {site: Rows(rows) for site, rows in SITES.items()}
    mesh = mesh and make_mesh(*mesh)
    how = {"moments": tmp_path, "batch_rows": 32, "save_every": 0.0, "mesh": mesh}
    for _ in range(2):
        with pytest.raises(Killed):
            fit(sides, atlas, ALL, options=OPTIONS, **how)
    before = atlas.reads.copy()
    assert before[:90].tolist() == [1] * 90  # what was saved is not read again
    found = fit(sides, atlas, ALL, options=OPTIONS, **{**how, "batch_rows": 50})
    same(found, whole)
    before = sides["a"].reads.copy()
    same(fit(sides, atlas, ALL, options=OPTIONS, **how), whole)
    np.testing.assert_array_equal(sides["a"].reads, before)  # all sums are there
    same(fit_moments(tmp_path, [atlas], ALL, options=OPTIONS), whole)


def test_a_killed_process_loses_nothing(tmp_path):
    code = f"""
import numpy as np, os, signal
from atlas_jax.translate import fit
class Rows:
    def __init__(self, array): self.array, self.shape = array, array.shape
    def __getitem__(self, rows):
        if rows.start >= 160: os.kill(os.getpid(), signal.SIGKILL)
        return self.array[rows]
class Atlas(Rows):
    meta = {{"texts": "t", "fingerprint": "f"}}
s, c = np.load({str(tmp_path / "s.npy")!r}), np.load({str(tmp_path / "c.npy")!r})
fit(Atlas(s), Atlas(c), ("covariance",), batch_rows=32,
    moments={str(tmp_path / "m")!r}, save_every=0.0)
"""
    np.save(tmp_path / "s.npy", SITES["a"])
    np.save(tmp_path / "c.npy", ATLAS)
    result = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert result.returncode == -signal.SIGKILL
    saved = MomentsFolder(tmp_path / "m").load("all", (0, DC))
    assert saved is not None and 0 < saved[0].n < N
    s, c = SITES["a"][: saved[0].n].astype(float), ATLAS[: saved[0].n].astype(float)
    np.testing.assert_allclose(saved[0].sites[""].cross, c.T @ s, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bound", [8_000, 3_500])
def test_sums_stay_within_the_bound(tmp_path, whole, monkeypatch, bound):
    allocated = []
    zeros = Moments.zeros.__func__

    def counted(*args):
        found = zeros(Moments, *args)
        matrices = [found.atlas.gram, found.atlas.unit_gram]
        matrices += [m for site in found.sites.values() for m in (site.cross, site.unit)]
        allocated.append(sum(m.nbytes for m in matrices if m is not None))
        return found

    monkeypatch.setattr(Moments, "zeros", counted)
    atlas = Rows(ATLAS)
    sides = {site: Rows(rows) for site, rows in SITES.items()}
    found = fit(sides, atlas, ALL, options=OPTIONS, max_memory=bound)
    parts = 1 + OPTIONS.folds
    passes = len(allocated) // parts
    held = [sum(allocated[i * parts : (i + 1) * parts]) for i in range(passes)]
    assert 0 < max(held) <= bound and passes > 1
    assert sides["a"].reads.tolist() == [passes] * N
    same(found, whole)
    about = found["a"]["covariance"].meta["sums"]
    assert about["passes"] == passes and about["sum_bytes"] == max(held)


def test_blocks_are_saved_and_used_again(tmp_path, whole):
    how = {"moments": tmp_path, "max_memory": "8KB"}
    same(fit(SITES, ATLAS, ALL, options=OPTIONS, **how), whole)
    assert len(MomentsFolder(tmp_path).parts()[1]) > 1
    same(fit_moments(tmp_path, [ATLAS], ALL, options=OPTIONS), whole)


def test_a_lost_block_or_fold_is_missed(tmp_path):
    fit(SITES, ATLAS, ALL, options=OPTIONS, moments=tmp_path, max_memory="8KB")
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(InputError, match="lack a file of a block of features or of a fold"):
            MomentsFolder(tmp_path).header()
        path.write_bytes(content)
    for path in tmp_path.glob("fold2-*"):
        path.unlink()
    with pytest.raises(InputError, match="lack a file"):
        MomentsFolder(tmp_path).header()


def test_the_memory_of_sums():
    wanted = Wanted(cross=True, gram="float64", unit=True)
    assert bytes_per_column({"a": 12, "b": 8}, 20, wanted) == 8 * (20 + 20 + 20)
    assert column_blocks(20, 480, None) == [(0, 20)]
    assert column_blocks(20, 480, 480 * 7) == [(0, 7), (7, 14), (14, 20)]
    assert [parse_bytes(x) for x in (7, "8GB", " 1.5 kb", "3B")] == [7, 8 * 10**9, 1500, 3]
    for bad in ("8 gib", "lots", "-1"):
        with pytest.raises(InputError, match="such as 8GB"):
            parse_bytes(bad)
    with pytest.raises(InputError, match="at least 480 bytes"):
        column_blocks(20, 480, 100)


@pytest.mark.parametrize("bound", [None, "8KB"])
def test_merged_runs_equal_one(tmp_path, whole, bound):
    cut = [0, 87, 174, N]  # the folds of one run
    atlases = []
    for i in range(3):
        rows = slice(cut[i], cut[i + 1])
        sides = {site: Rows(array[rows], f"t{i}") for site, array in SITES.items()}
        atlases.append(Rows(ATLAS[rows], f"t{i}"))
        methods = [name for name in ALL if name != "ridge"]
        fit(
            sides,
            atlases[-1],
            methods,
            options=OPTIONS,
            moments=tmp_path / str(i),
            max_memory=bound,
        )
    header = merge_moments([tmp_path / str(i) for i in range(3)], tmp_path / "all")
    assert header["n"] == N and [run["n"] for run in header["inputs"]] == [87, 87, 86]
    found = fit_moments(tmp_path / "all", atlases[::-1], methods, options=OPTIONS)
    same(found, {site: {m: by[m] for m in methods} for site, by in whole.items()})
    assert found["a"]["covariance"].meta["texts"] == ["t0", "t1", "t2"]
    with pytest.raises(InputError, match="the atlas store of each run"):
        fit_moments(tmp_path / "all", atlases[:1], ("semantic_lens",), options=OPTIONS)


def test_what_does_not_fit_together_is_refused(tmp_path):
    def run(name, atlas=ATLAS, texts="t", methods=("covariance",), **how):
        sides = {"a": Rows(SITES["a"][: len(atlas)], texts)}
        fit(sides, Rows(atlas, texts), methods, moments=tmp_path / name, **how)

    run("one", texts="t1")
    run("two", texts="t2")
    run("unit", texts="t3", methods=("procrustes",))
    merge_moments([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    for folders, message in (
        (["one", "one"], "count double"),
        (["both", "two"], "count double"),
        (["one", "unit"], "same sums"),
        (["one"], "at least two"),
        (["one", "none"], "found none"),
    ):
        with pytest.raises(InputError, match=message):
            merge_moments([tmp_path / f for f in folders], tmp_path / "out")
    with pytest.raises(InputError, match="empty folder"):
        merge_moments([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    with pytest.raises(InputError, match="that procrustes needs"):
        fit_moments(tmp_path / "one", methods=("procrustes",))
    with pytest.raises(InputError, match="found others"):
        run("one", texts="t2")
    file = next((tmp_path / "one").iterdir())
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        fit_moments(tmp_path / "one", methods=("covariance",))


def test_unfinished_moments_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(accumulate_module, "_LEAST_ROWS", 16)
    with pytest.raises(Killed):
        fit(SITES["a"], Rows(ATLAS, fails=[100]), moments=tmp_path, batch_rows=32, save_every=0.0)
    with pytest.raises(InputError, match="lack .* rows: run the same fit again"):
        fit_moments(tmp_path)


def test_the_header_tells_how_the_sums_were_taken(tmp_path):
    lines = []
    found = fit(SITES["a"], ATLAS, ("covariance",), layout="sparse", report=lines.append)
    about = found["covariance"].meta["sums"]
    assert about["layout"] == "sparse" and about["engine"] == "host" and about["passes"] == 1
    assert about["density"] == pytest.approx((ATLAS != 0).mean(), abs=1e-3)
    assert len(lines) == 1 and "sparse atlas rows on the host" in lines[0]
    json.dumps(found["covariance"].meta)
