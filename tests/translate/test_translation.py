"""A translation as an object: names, tops, comparison, printing, whose query it takes."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
from safetensors import safe_open
from safetensors.numpy import save_file

from atlas_jax.errors import InputError
from atlas_jax.translate import Translation, compare, fit
from atlas_jax.translate.stored import StoredTranslation

RNG = np.random.default_rng(7)
META = {
    "subject": {"model": "gemma", "site": "blocks.1.mlp.hook_post"},
    "atlas": {"model": "smol", "site": "blocks.2.sae", "fingerprint": "abc.max"},
    "n": 90,
    "options": {"rank": 5, "residual": 1e-9},
}
T = Translation("procrustes", RNG.standard_normal((5, 7)).astype(np.float32), META)


def test_rows_and_columns_by_index_name_and_label():
    labelled = T.with_labels({3: "the sea", 99: "not of this atlas"})
    np.testing.assert_array_equal(T.row(2), T.matrix[2])
    np.testing.assert_array_equal(T.row("blocks.1.mlp.hook_post.2"), T.matrix[2])
    np.testing.assert_array_equal(T.column("blocks.2.sae.3"), T.matrix[:, 3])
    np.testing.assert_array_equal(labelled.column("the sea"), T.matrix[:, 3])
    for bad in (7, -1, "the sea", "blocks.9.sae.3", "blocks.2.sae.7"):
        with pytest.raises(InputError, match="feature of the atlas, by name or from 0 to 6"):
            T.column(bad)
    with pytest.raises(InputError, match="feature of the subject, by name or from 0 to 4, got 5"):
        T.row(5)


def test_tops_are_the_largest_of_unit_rows():
    unit = T.matrix / np.linalg.norm(T.matrix, axis=1, keepdims=True)
    for found, values in ((T.top_concepts(2, 4), unit[2]), (T.top_features(3, 4), unit[:, 3])):
        order = [i for i in np.argsort(-values)[:4] if values[i] > 0]
        assert [i for i, _ in found] == order
        np.testing.assert_allclose([v for _, v in found], values[order], rtol=1e-6)
    query = np.eye(7, dtype=np.float32)[3]
    for feature, score in T.top_features(3):
        assert score == pytest.approx(float(T.scores(query)[feature]))


def test_a_query_of_another_atlas_is_refused():
    query = np.eye(7, dtype=np.float32)[0]
    for atlas in ("abc", ""):
        T.scores(SimpleNamespace(vector=query, atlas=atlas))
    with pytest.raises(InputError, match="the atlas that the translation was fitted on.*smol"):
        T.scores(SimpleNamespace(vector=query, atlas="other"))


def test_it_prints_what_it_is():
    text = str(T)
    for part in ("5 subject features to 7", "gemma", "blocks.2.sae", "90", "rank", "1e-09"):
        assert part in text
    assert repr(T) == "Translation('procrustes', 5 x 7, blocks.1.mlp.hook_post)"


def test_comparison_of_two_maps(tmp_path):
    basis = np.linalg.qr(RNG.standard_normal((9, 4)))[0].T
    turned = scipy.linalg.expm(0.1 * np.triu(RNG.standard_normal((9, 9)), 1))
    turned = np.linalg.qr(turned)[0]
    a = Translation("a", basis.astype(np.float32))
    b = Translation("b", (np.diag([1, 2, 3, 4]) @ basis @ turned).astype(np.float32))
    found = compare(a, b)
    cosines = np.diag(basis @ (basis @ turned).T)
    np.testing.assert_allclose(found.row_cosines, cosines, atol=1e-5)
    angles = scipy.linalg.subspace_angles(basis.T, (basis @ turned).T)
    np.testing.assert_allclose(np.sort(found.angles), np.sort(angles), atol=1e-5)
    same = compare(a, Translation("c", 2 * a.matrix))
    assert same.angles.max() < 1e-3 and "mean row cosine 1.0000" in str(same)
    dead = a.matrix.copy()
    dead[1] = 0
    assert np.isnan(compare(a, Translation("d", dead)).row_cosines[1])
    with pytest.raises(InputError, match="one shape"):
        compare(a, T)
    with pytest.raises(InputError, match="d is"):
        compare(a, Translation("d", 0 * a.matrix))


def test_labels_survive_the_file(tmp_path):
    path = T.with_labels({0: "cats"}).save(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(Translation.load(path).column("cats"), T.matrix[:, 0])


def test_a_fitted_translation_has_names():
    rows = RNG.standard_normal((40, 5)).astype(np.float32)
    found = fit({"blocks.1.mlp.hook_post": rows}, rows)["blocks.1.mlp.hook_post"]["procrustes"]
    np.testing.assert_array_equal(found.row("blocks.1.mlp.hook_post.4"), found.matrix[4])


def test_columns_and_rows_are_read_one_by_one(tmp_path, monkeypatch):
    zero = T.matrix.copy()
    zero[4] = 0
    whole = Translation("procrustes", zero, META)
    path = whole.save(tmp_path / "t.safetensors")
    bare = tmp_path / "bare.safetensors"  # as files were before they held the norms of rows
    with safe_open(path, "np") as file:
        notes = {k: v for k, v in file.metadata().items() if k != "atlas_jax.sha256"}
        save_file({"matrix": zero}, bare, metadata=notes)
    monkeypatch.setattr(StoredTranslation, "matrix", property(lambda self: pytest.fail("whole")))
    query = {3: 0.5, 6: -2.0}
    q = np.zeros(7, np.float32)
    q[list(query)] = list(query.values())
    for stored in (StoredTranslation(path), StoredTranslation(bare)):
        assert stored.shape == (5, 7) and stored.meta == META and stored.method == "procrustes"
        np.testing.assert_array_equal(stored.row_norms, whole.row_norms)
        np.testing.assert_array_equal(stored.column(6), zero[:, 6])
        np.testing.assert_array_equal(stored.row(2), zero[2])
        np.testing.assert_allclose(stored.scores(query), whole.scores(q), rtol=1e-5, atol=1e-7)
        assert stored.top_concepts(2, 4) == whole.top_concepts(2, 4)
        assert stored.top_concepts(4) == []
        with pytest.raises(InputError, match="finite and not zero"):
            stored.scores({3: 0.0})
        with pytest.raises(InputError, match="atlas from 0 to 6, got 7"):
            stored.column(7)
        with pytest.raises(InputError, match="subject from 0 to 4, got -1"):
            stored.row(-1)
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\x01" + content[-3:])
    with pytest.raises(InputError, match="damaged .the checksum of row_norms differs.: fit it"):
        StoredTranslation(path).scores(query)
    path.write_bytes(content[:-4])
    with pytest.raises(InputError, match="damaged"):
        StoredTranslation(path)


@pytest.mark.parametrize("shape", [(64, 128), (65, 129), (130, 300), (1, 2)])
def test_each_block_that_is_read_is_compared(tmp_path, shape):
    made = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    path = Translation("covariance", made, {}).save(tmp_path / "t.safetensors")
    stored = StoredTranslation(path)
    for i in (0, shape[0] - 1, shape[0] // 2, 0):
        np.testing.assert_array_equal(stored.row(i), made[i])
    for j in (0, shape[1] - 1, shape[1] // 2, 0):
        np.testing.assert_array_equal(stored.column(j), made[:, j])
    assert "_whole" not in vars(stored)
    # One bit of the last entry: blocks without it are read, and those with it are refused.
    data = bytearray(path.read_bytes())
    at = data.rindex(made[-1].tobytes()) + 4 * shape[1] - 1
    data[at] ^= 1
    path.write_bytes(data)
    stored = StoredTranslation(path)
    if shape[0] > 64:
        np.testing.assert_array_equal(stored.row(0), made[0])
    if shape[1] > 128:
        np.testing.assert_array_equal(stored.column(0), made[:, 0])
    for read in (lambda: stored.row(shape[0] - 1), lambda: stored.column(shape[1] - 1)):
        with pytest.raises(InputError, match="damaged .the checksum of .*: fit it again"):
            read()
    with pytest.raises(InputError, match="damaged"):
        Translation.load(path)
