"""A store reads like the array it was written from, in every way it can be read."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file

from atlas_jax.activations import ActivationStore, capture, device_batches
from atlas_jax.activations.layout import array_spec, shard_rows
from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh


@pytest.fixture
def store(source, texts, tmp_path):
    return capture(source, texts, out=tmp_path / "s", rows_per_part=32, batch_tokens=256)


def test_reads_like_an_array(store, source, texts):
    rows, whole = store["blocks.0.a"], source.expected(texts, "blocks.0.a")
    keys = [
        slice(None),
        slice(10, 20),
        slice(30, 10),
        slice(-5, None),
        slice(3, 140, 7),
        slice(None, None, -1),
        7,
        -1,
        np.int32(3),
        [140, 3, 3, -77],
        np.arange(150) % 3 == 0,
        (slice(5, 9), [4, 0]),
        (7, 2),
        (slice(None), 3),
    ]
    for key in keys:
        np.testing.assert_array_equal(rows[key], whole[key])
    np.testing.assert_array_equal(np.asarray(rows), whole)
    np.testing.assert_array_equal(rows.rows([140, 3, 3, 77]), whole[[140, 3, 3, 77]])
    np.testing.assert_array_equal(rows.rows([]), whole[[]])
    np.testing.assert_array_equal(rows.columns([5, 0, 5]), whole[:, [5, 0, 5]])
    assert len(rows) == 150 and rows.dtype == np.float32
    with pytest.raises(IndexError, match="row 150 of 150"):
        rows[150]
    with pytest.raises(InputError, match="rows from 0 to 149 of blocks.0.a, got 150"):
        rows.rows([1, 150])


@pytest.mark.parametrize("size", [1, 13, 32, 150, 500])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_batches_are_all_rows_in_order(store, source, texts, size, prefetch):
    batches = list(store["blocks.0.a"].batches(size, prefetch))
    assert all(len(batch) == size for batch in batches[:-1])
    np.testing.assert_array_equal(np.concatenate(batches), source.expected(texts, "blocks.0.a"))


def test_wide_rows_lie_in_several_shards_of_a_part():
    assert shard_rows(2048, 2048, 4) == 2048
    assert shard_rows(4096, 65536, 4) == 512  # 128 MB
    spec = array_spec("memory://x", "a", (10_000, 65536), "float32", 4096, True)["metadata"]
    assert spec["chunk_grid"]["configuration"]["chunk_shape"] == [512, 65536]
    (sharding,) = spec["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [16, 65536]  # 4 MB
    assert spec["fill_value"] == "NaN"


def test_sparse_rows_are_compressed(texts, tmp_path, table_source):
    source = table_source(widths=(512, 512))
    source.tables["blocks.1.b"][:, 3:] = 0
    capture(source, texts, out=tmp_path / "s", rows_per_part=75)
    sizes = {
        site: sum(p.stat().st_size for p in (tmp_path / "s" / site).rglob("c/*/*"))
        for site in source.sites
    }
    assert sizes["blocks.1.b"] < 0.1 * sizes["blocks.0.a"]
    assert sizes["blocks.0.a"] < 1.01 * 150 * 512 * 4


def test_columns_of_several_sites_side_by_side(store, source, texts):
    merged = store.merge()
    whole = np.concatenate([source.expected(texts, site) for site in source.sites], axis=1)
    assert merged.shape == (150, 15) and merged.site == "blocks.0.a + blocks.1.b"
    np.testing.assert_array_equal(merged[20:30], whole[20:30])
    np.testing.assert_array_equal(merged[4, 8], whole[4, 8])
    np.testing.assert_array_equal(merged.rows([9, 2]), whole[[9, 2]])
    np.testing.assert_array_equal(merged.columns([14, 0, 6, 5]), whole[:, [14, 0, 6, 5]])
    np.testing.assert_array_equal(np.concatenate(list(merged.batches(40))), whole)
    np.testing.assert_array_equal(merged.top_samples(3).values, -np.sort(-whole, axis=0)[:3])
    part, column = merged.where(7)
    assert part.site == "blocks.1.b" and column == 1
    assert merged.meta["texts"] == texts.hash
    with pytest.raises(InputError, match="column from 0 to 14, got 15"):
        merged.where(15)
    with pytest.raises(InputError, match="over the same texts"):
        store.merge([])


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("spec", [("data",), ("data", "model"), ()])
def test_batches_on_devices(texts, table_source, tmp_path, size, spec):
    source = table_source(widths=(6, 8))
    rows = capture(source, texts, out=tmp_path / "s", rows_per_part=32)["blocks.1.b"]
    sharding = NamedSharding(make_mesh(model=2), PartitionSpec(*spec))
    found = []
    for batch, n in device_batches(rows, size, sharding):
        assert isinstance(batch, jax.Array) and batch.shape == (size, 8)
        assert batch.sharding.is_equivalent_to(sharding, 2)
        assert not np.asarray(batch)[n:].any()
        found.append(np.asarray(batch)[:n])
    np.testing.assert_array_equal(np.concatenate(found), rows[:])
    assert [len(part) for part in found[:-1]] == [size] * (len(found) - 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_go_to_files_that_other_programs_read(source, texts, tmp_path, dtype):
    rows = capture(source, texts, out=tmp_path / "s", dtype=dtype)["blocks.0.a"]
    whole = rows[:]
    npy = np.load(rows.export(tmp_path / "x" / "a.npy"))
    assert npy.dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(npy, whole.astype(npy.dtype))
    file = rows.export(tmp_path / "a.safetensors")
    found = load_file(file)["activations"]
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found.view(np.uint8), whole.view(np.uint8))
    with safe_open(file, "np") as opened:
        header = opened.metadata()
    assert header["pool"] == "max" and header["texts"] == texts.hash
    some = [140, 3, 77]
    table = pq.read_table(rows.export(tmp_path / "a.parquet", some))
    assert table["row"].to_pylist() == some
    np.testing.assert_array_equal(
        np.array(table["activations"].to_pylist()), whole[some].astype(np.float64)
    )
    assert json.loads(table.schema.metadata[b"atlas_jax"])["fingerprint"] == "table-0"
    with pytest.raises(InputError, match="ending in .npy, .safetensors, .parquet, got 'a.csv'"):
        rows.export(tmp_path / "a.csv")
    with pytest.raises(InputError, match="got 150"):
        rows.export(tmp_path / "b.npy", [150])
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))


def test_a_folder_may_be_named_from_beside_it(store, tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    again = ActivationStore.open("../s")
    np.testing.assert_array_equal(again["blocks.0.a"][:], store["blocks.0.a"][:])


def test_it_prints_what_it_holds(store, source, texts, tmp_path):
    assert repr(store) == (
        "ActivationStore('table', 150 texts, "
        f"{store.meta['tokens']:,} tokens, 0.0 MB: blocks.0.a (max; 6 x float32); "
        "blocks.1.b (max; 9 x float32))"
    )
    assert repr(store["blocks.1.b"]) == "SiteArray('blocks.1.b', max, 150 x 9 float32, 0.0 MB)"
    assert repr(store.merge()) == "MergedArray(150 x 15: blocks.0.a + blocks.1.b)"
    tokens = capture(source, texts, out=tmp_path / "t", pool="tokens")
    n = tokens.meta["tokens"]
    assert repr(tokens["blocks.0.a"]) == (
        f"TokenArray('blocks.0.a', 150 texts, {n:,} x 6 float32, 0.1 MB)"
    )
