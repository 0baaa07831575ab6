"""What this package writes, changed by somebody else: stores, translations, moments, bridges."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from atlas_jax.activations import ActivationStore
from atlas_jax.activations.store import progress_of
from atlas_jax.activations.top_samples import TopSamples
from atlas_jax.activations.writer import StoreWriter
from atlas_jax.atlas.recording import open_activations
from atlas_jax.translate import Translation
from atlas_jax.translate.moments_file import MomentsFolder
from atlas_jax.translate.stored import StoredTranslation
from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.bridge_moments import BridgeMoments, Sums
from atlas_jax.verbalize.washout import Background

from .mutations import NAMES, cases, misled, refused, spoiled, wrong

SITE = "blocks.0.hook_resid_post"
META = {
    "format": 2,
    "model": "m",
    "fingerprint": "f",
    "texts": "t",
    "n": 3,
    "rows": 3,
    "tokens": 9,
    "rows_per_part": 4,
    "sites": {SITE: {"pools": ["max"], "width": 2, "dtype": "float32"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


def _sealed(meta) -> bytes:
    """With the checksum that fits: whoever changes a store can compute one."""
    from atlas_jax.activations.meta import _checksum

    sealed = {**meta, "sha256": _checksum(meta)} if isinstance(meta, dict) else meta
    return json.dumps(sealed).encode()


@pytest.fixture(scope="module")
def store(folder):
    """A whole store of three texts."""
    import tensorstore as ts

    from atlas_jax.activations.layout import array_spec

    path = folder / "store"
    spec = array_spec(path, f"{SITE}/max", (3, 2), "float32", 4, False)
    array = ts.open(spec, create=True).result()
    array[:] = np.arange(6, dtype=np.float32).reshape(3, 2)
    (path / "meta.json").write_bytes(_sealed(META))
    (path / "ledger").mkdir()
    (path / "ledger" / "000000").write_text("")
    found = ActivationStore.open(path)[SITE]
    assert found[:].tolist() == [[0, 1], [2, 3], [4, 5]] and StoreWriter
    return path


def read(path):
    found = ActivationStore.open(path)
    for site in found.sites:
        np.asarray(found[site][:])
        found.top_samples(site, 2)
    repr(found)


@cases
@given(data=st.data())
def test_a_store_of_any_meta(folder, store, data):
    path = folder / "changed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store, path)
    whole = (store / "meta.json").read_bytes()
    kind = data.draw(st.sampled_from(("values", "bytes", "array", "ledger", "shard", "top")))
    if kind == "values":
        (path / "meta.json").write_bytes(_sealed(data.draw(misled(META))))
    elif kind == "bytes":
        (path / "meta.json").write_bytes(data.draw(spoiled(whole)))
    elif kind == "array":
        file = path / SITE / "max" / "zarr.json"
        file.write_text(json.dumps(data.draw(misled(json.loads(file.read_text())))))
    elif kind == "ledger":
        name = data.draw(st.sampled_from(("x", "000001", "-1", "9" * 200, "²")))
        (path / "ledger" / name).write_text("")
    elif kind == "shard":
        file = path / SITE / "max" / "c" / "0" / "0"
        file.write_bytes(data.draw(spoiled(file.read_bytes())))
    else:
        ActivationStore.open(path).top_samples(SITE, 2)
        file = path / "top" / SITE / "max.npz"
        file.write_bytes(data.draw(spoiled(file.read_bytes())))
    before = {p.name for p in folder.iterdir()}
    refused(lambda: read(path))
    refused(lambda: progress_of(path))
    assert {p.name for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
def test_a_store_names_no_array_elsewhere(folder, store, name):
    path = folder / "named"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store, path)
    facts = META["sites"][SITE]
    for sites in ({name: facts}, {SITE: {**facts, "pools": [name]}}):
        (path / "meta.json").write_bytes(_sealed({**META, "sites": sites}))
        assert refused(lambda: read(path))


def test_a_chunk_of_claimed_size_is_not_allocated(folder, store):
    path = folder / "huge"
    shutil.copytree(store, path)
    file = path / SITE / "max" / "zarr.json"
    spec = json.loads(file.read_text())
    spec["shape"][0] = spec["chunk_grid"]["configuration"]["chunk_shape"][0] = 2**40
    spec["codecs"][0]["configuration"]["chunk_shape"][0] = 2**40
    file.write_text(json.dumps(spec))
    meta = {**META, "n": 2**40, "rows": 2**40, "rows_per_part": 2**40}
    (path / "meta.json").write_bytes(_sealed(meta))
    assert "too large" in str(refused(lambda: read(path)))


@cases
@given(content=spoiled(TopSamples.init(2, 3).to_bytes()))
def test_saved_samples_of_any_bytes(folder, content):
    from atlas_jax.outside import refusing

    def read():
        with refusing("samples"):
            TopSamples.from_bytes(content)

    refused(read)
    assert TopSamples.from_bytes(TopSamples.init(2, 3).to_bytes()).rows.shape == (2, 3)


MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
TRANSLATION = {"subject": {"model": "m", "site": SITE}, "atlas": {"model": "a"}, "n": 3}


def _translation(folder, meta, method="procrustes", matrix=MATRIX):
    """As somebody else would write it: without checksums."""
    notes = {"format": "atlas-jax translation 1", "method": method, "meta": meta}
    save_file({"matrix": matrix}, folder / "t.safetensors", notes)
    return folder / "t.safetensors"


def use(path):
    for found in (Translation.load(path), StoredTranslation(path)):
        assert found.row_norms.shape == (2,) and str(found)
        found.scores(np.ones(3, np.float32)) if isinstance(found, Translation) else found.column(0)


def test_the_translation_is_good_as_it_is(folder):
    use(_translation(folder, json.dumps(TRANSLATION)))


@cases
@given(meta=misled(TRANSLATION).map(json.dumps) | st.just("[" * 9000) | st.text(max_size=9))
def test_a_translation_of_any_meta(folder, meta):
    path = _translation(folder, meta.encode("utf-8", "replace").decode())
    refused(lambda: use(path))


@pytest.mark.parametrize(
    "matrix",
    [MATRIX[0], MATRIX[None], MATRIX.astype(np.float64), np.zeros((0, 3), np.float32),
     np.ones((2, 3), np.int8)],
)  # fmt: skip
def test_a_translation_of_another_matrix(folder, matrix):
    path = _translation(folder, json.dumps(TRANSLATION), matrix=np.ascontiguousarray(matrix))
    assert refused(lambda: Translation.load(path)) and refused(lambda: StoredTranslation(path))


def _bridge() -> Bridge:
    ones, more = np.ones(2), np.ones(3)
    return Bridge(
        np.ones((3, 2), np.float32),
        *(more, ones, more, ones, more, ones),
        np.eye(2, dtype=np.float32),
        (np.ones((3, 2), np.float32),) * 2,
        {"source": {"model": "m"}, "target": {"model": "n"}, "lambda": 1.0, "noise": 0.1, "n": 9},
    )


@cases
@given(
    meta=misled(_bridge().meta).map(json.dumps),
    name=st.sampled_from(("matrix", "mean_x", "half1", "eigenvectors", "nothing")),
    odd=st.sampled_from((np.ones(5), np.ones((3, 2)), np.zeros((0, 2)), np.ones(2, np.int8))),
)
def test_a_bridge_of_any_content(folder, meta, name, odd):
    from safetensors.numpy import load_file

    path = _bridge().save(folder / "b.safetensors")
    tensors = load_file(path) | {name: odd}
    save_file(tensors, path, {"format": "atlas-jax bridge 1", "header": meta})
    refused(lambda: Bridge.load(path).point(np.ones(2)))


@cases
@given(header=misled({"about": {"source": {}}, "n": [3, 4]}).map(json.dumps), odd=wrong)
def test_bridge_moments_of_any_header(folder, header, odd):
    part = Sums.zeros(2, 3)
    rows = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    path = BridgeMoments(np.zeros(2), np.zeros(3), [part, part], *rows).save(
        folder / "m.safetensors"
    )
    from safetensors.numpy import load_file

    notes = {"format": "atlas-jax bridge moments 1", "header": header}
    save_file(load_file(path), path, notes)
    refused(lambda: BridgeMoments.load(path).whole())
    save_file({"rows": rows[0]}, path, {"format": "x", "header": json.dumps(odd)})
    refused(lambda: Background.load(path))


@cases
@given(header=misled({"n": 1, "left": 0, "sites": ["s"], "inputs": [], "wanted": {}}))
def test_moments_of_any_header(folder, header):
    inner = folder / "moments"
    inner.mkdir(exist_ok=True)
    notes = {"format": "atlas-jax moments 1", "header": json.dumps(header)}
    save_file({"atlas.total": np.zeros(2)}, inner / "all-000000-000002.safetensors", notes)
    refused(lambda: MomentsFolder(inner).header())
    refused(lambda: MomentsFolder(inner).whole())


@cases
@given(data=st.data())
def test_recorded_tokens_of_any_content(folder, data):
    inner = folder / "tokens"
    inner.mkdir(exist_ok=True)
    np.save(inner / "tokens.npy", np.ones((2, 3), np.int32))
    np.save(inner / "acts.npy", np.ones((4, 2), np.float16))
    (inner / "state.json").write_text('{"done": 2}')
    name = data.draw(st.sampled_from(("tokens.npy", "acts.npy", "state.json")))
    (inner / name).write_bytes(data.draw(spoiled((inner / name).read_bytes())))
    refused(lambda: open_activations(inner).read(np.array([0])))
