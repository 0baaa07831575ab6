"""The largest activations of each feature, whatever the batches; saved once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.activations import SiteArray, TopSamples, capture
from atlas_jax.activations.layout import top_key
from atlas_jax.activations.top_samples import find_top_samples


@given(st.integers(0, 10**6), st.integers(4, 25), st.integers(1, 4), st.integers(1, 9))
def test_against_a_stable_sort(seed, n, k, size):
    rng = np.random.default_rng(seed)
    acts = rng.integers(-2, 3, (n, 3)).astype(np.float32)  # many ties
    batches = [acts[start : start + size] for start in range(0, len(acts), size)]
    top = find_top_samples(batches, acts.shape[1], k)
    order = np.argsort(-acts, axis=0, kind="stable")[:k]
    np.testing.assert_array_equal(top.rows, order)
    np.testing.assert_array_equal(top.values, np.take_along_axis(acts, order, 0))


def test_saved_beside_the_store_and_read_from_there(source, texts, tmp_path, monkeypatch):
    store = capture(source, texts, out=tmp_path / "s", pool=("max", "mean"))
    acts = store["blocks.0.a", "mean"][:]
    order = np.argsort(-acts, axis=0, kind="stable")
    top = store.top_samples("blocks.0.a", 5, "mean")
    np.testing.assert_array_equal(top.rows, order[:5])
    np.testing.assert_array_equal(top.values, np.take_along_axis(acts, order[:5], 0))
    with monkeypatch.context() as patch:
        patch.setattr(SiteArray, "batches", None)  # nothing is read again
        again = store.top_samples("blocks.0.a", 20, "mean")
        np.testing.assert_array_equal(again.rows, order[:20])
        with pytest.raises(TypeError):
            store.top_samples("blocks.0.a", 20, "max")  # another array
    more = store.top_samples("blocks.0.a", 100, "mean")  # more than was saved
    np.testing.assert_array_equal(more.rows, order[:100])
    assert store.top_samples("blocks.0.a", 1000, "mean").rows.shape == (150, 6)


def test_a_damaged_file_is_found_again(source, texts, tmp_path):
    rows = capture(source, texts, out=tmp_path / "s")["blocks.0.a"]
    top = rows.top_samples(3)
    file = tmp_path / "s" / top_key("blocks.0.a", "max")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(rows.top_samples(3).rows, top.rows)
    assert file.read_bytes() != content


def test_bfloat16_and_one_row_after_another():
    import ml_dtypes

    acts = np.random.default_rng(0).standard_normal((50, 3)).astype(ml_dtypes.bfloat16)
    top = TopSamples.init(4, 3)
    for i, row in enumerate(acts):
        top = top.update(row[None], i)
    expected = np.argsort(-acts.astype(np.float32), axis=0, kind="stable")[:4]
    np.testing.assert_array_equal(top.rows, expected)
