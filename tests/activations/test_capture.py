"""Capture: right rows, resumed to the same bytes, and nothing wrong read in silence."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.activations import writer as writer_module
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError


def test_rows_are_the_pooled_activations_in_order(source, texts, tmp_path):
    store = capture(source, texts, out=tmp_path / "s", rows_per_shard=64, batch_tokens=256)
    assert store.sites == source.sites and len(store) == 150
    for site in source.sites:
        np.testing.assert_array_equal(store[site][:], source.expected(texts, site).astype("f4"))
    assert store[source.sites[0]].shape == (150, 6)
    assert "table" in repr(store)


def test_reads_like_an_array(source, texts, tmp_path):
    rows = capture(source, texts, out=tmp_path / "s", rows_per_shard=32)["blocks.0.a"]
    whole = rows[:]
    np.testing.assert_array_equal(rows[10:20], whole[10:20])
    np.testing.assert_array_equal(rows[7], whole[7])
    np.testing.assert_array_equal(rows.rows([140, 3, 3, 77]), whole[[140, 3, 3, 77]])
    np.testing.assert_array_equal(rows.columns([5, 0]), whole[:, [5, 0]])
    for size in (1, 13, 32, 500):
        batches = list(rows.batches(size))
        assert all(len(b) == size for b in batches[:-1])
        np.testing.assert_array_equal(np.concatenate(batches), whole)


def test_memory_url_and_bfloat16(texts, table_source):
    source = table_source(dtype=jnp.bfloat16)
    store = capture(source, texts, ["blocks.1.b"], out="memory://bf/", rows_per_shard=64)
    rows = ActivationStore.open("memory://bf/")["blocks.1.b"]
    assert rows.dtype == jnp.bfloat16 and store.sites == ("blocks.1.b",)
    expected = source.expected(texts, "blocks.1.b")
    np.testing.assert_array_equal(np.asarray(rows[:], np.float32), expected)


def test_a_finished_store_is_not_computed_again(source, texts, tmp_path):
    capture(source, texts, out=tmp_path / "s")
    calls = source.calls
    capture(source, texts, out=tmp_path / "s")
    assert source.calls == calls + 1  # the shapes alone


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_capture_resumes_to_the_same_bytes(
    source, texts, tmp_path, after, monkeypatch
):
    whole = capture(source, texts, out=tmp_path / "whole", rows_per_shard=32)
    real = writer_module.StoreWriter.write

    def dying(self, shard, arrays):
        if shard > after:
            raise Killed
        real(self, shard, arrays)

    monkeypatch.setattr(writer_module.StoreWriter, "write", dying)
    with pytest.raises(Killed):
        capture(source, texts, out=tmp_path / "s", rows_per_shard=32)
    with pytest.raises(InputError, match=r"\d of 5 shards"):
        ActivationStore.open(tmp_path / "s")
    monkeypatch.undo()
    calls = source.calls
    resumed = capture(source, texts, out=tmp_path / "s", rows_per_shard=32)
    assert source.calls > calls
    for site in source.sites:
        np.testing.assert_array_equal(resumed[site][:], whole[site][:])


DYING = """
import json, os, runpy, signal, sys

conftest, folder, texts = sys.argv[1:]
source = runpy.run_path(conftest)["TableSource"]()
inner, calls = source.read, []


def read(*args):
    calls.append(1)
    if len(calls) > 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args)


source.read = read
from atlas_jax.activations import capture
from atlas_jax.corpus import Texts

capture(source, Texts(json.loads(texts)), out=folder, rows_per_shard=32, batch_tokens=256)
"""


def test_kill_dash_nine_loses_only_the_shard_under_way(source, texts, tmp_path):
    conftest = str(Path(__file__).with_name("conftest.py"))
    command = [sys.executable, "-c", DYING, conftest, str(tmp_path / "s"), json.dumps([*texts])]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    done = list((tmp_path / "s" / "ledger").glob("0*"))
    resumed = capture(source, texts, out=tmp_path / "s", rows_per_shard=32, batch_tokens=256)
    assert 0 < len(done) < 5
    for site in source.sites:
        np.testing.assert_array_equal(resumed[site][:], source.expected(texts, site).astype("f4"))


def test_another_recording_is_refused(source, texts, tmp_path, table_source):
    capture(source, texts, out=tmp_path / "s")
    with pytest.raises(InputError, match="Expected fingerprint = table-1 .* holds table-0"):
        capture(table_source(1), texts, out=tmp_path / "s")
    with pytest.raises(InputError, match="Expected texts = "):
        capture(source, texts[:100], out=tmp_path / "s")
    with pytest.raises(InputError, match="Expected pool = mean"):
        capture(source, texts, out=tmp_path / "s", pool="mean")
    with pytest.raises(InputError, match="Expected sites = "):
        capture(source, texts, ["blocks.0.a"], out=tmp_path / "s")


def test_a_second_writer_is_refused(source, texts, tmp_path):
    meta = {"rows_per_shard": 32, "n": 150}
    refused = pytest.raises(InputError, match="Another process")
    with writer_module.StoreWriter(tmp_path / "s", meta), refused:
        capture(source, texts, out=tmp_path / "s")


def shards(folder, site):
    return sorted(p for p in (folder / site / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("site", ["blocks.0.a", "blocks.1.b"])
def test_damage_is_named_never_read(source, texts, tmp_path, site):
    capture(source, texts, out=tmp_path / "s", rows_per_shard=32)
    victim = shards(tmp_path / "s", site)[2]
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        ActivationStore.open(tmp_path / "s")[site][:]
    victim.unlink()
    with pytest.raises(InputError, match="lacks a shard"):
        list(ActivationStore.open(tmp_path / "s")[site].batches(40))
    assert np.isfinite(ActivationStore.open(tmp_path / "s")[site][:64]).all()


def test_sparse_rows_are_compressed(texts, tmp_path, table_source):
    source = table_source()
    source.tables["blocks.1.b"] = np.zeros((51, 512))
    source.tables["blocks.1.b"][:, :3] = 1
    source.tables["blocks.0.a"] = np.random.default_rng(0).standard_normal((51, 512))
    capture(source, texts, out=tmp_path / "s", rows_per_shard=128)
    sizes = {s: sum(p.stat().st_size for p in shards(tmp_path / "s", s)) for s in source.sites}
    assert sizes["blocks.1.b"] < 0.1 * sizes["blocks.0.a"]


def test_bad_input(source, texts, tmp_path):
    with pytest.raises(InputError, match="got 'blocks.9.a'"):
        capture(source, texts, ["blocks.9.a"], out=tmp_path / "s")
    with pytest.raises(InputError, match="Text 1 .'word'. has 1 token"):
        capture(source, Texts(["two words", "word"]), out=tmp_path / "s")
    with pytest.raises(InputError, match="at least one text"):
        capture(source, Texts([]), out=tmp_path / "s")
    with pytest.raises(InputError, match="found none: capture first"):
        ActivationStore.open(tmp_path / "s")
    source.tables["blocks.0.a"][:, 2] = np.nan
    with pytest.raises(InputError, match="row 0 has NaN"):
        capture(source, texts, out=tmp_path / "nan")


def test_long_texts_are_cut_and_counted(source, texts, tmp_path):
    store = capture(source, texts, out=tmp_path / "s", max_tokens=10)
    rows = source.tokenizer.encode_batch(list(texts))
    assert store.meta["cut"] == sum(len(row) > 10 for row in rows) > 0
    cut = [" ".join(text.split()[:10]) for text in texts]
    np.testing.assert_array_equal(
        store["blocks.0.a"][:], source.expected(cut, "blocks.0.a").astype("f4")
    )


def test_unfinished_and_foreign_stores_are_named(source, texts, tmp_path):
    capture(source, texts, out=tmp_path / "s")
    meta = json.loads((tmp_path / "s" / "meta.json").read_text())
    (tmp_path / "s" / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(InputError, match="another version"):
        ActivationStore.open(tmp_path / "s")
    with pytest.raises(InputError, match="among blocks.0.a"):
        capture(source, texts, out=tmp_path / "t")["blocks.7"]
