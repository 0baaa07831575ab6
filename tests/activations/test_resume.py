"""Whatever stops a capture, the same call goes on to the same bytes."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, capture, lock
from atlas_jax.activations.kvstore import open_kvstore, write_json
from atlas_jax.activations.writer import StoreWriter
from atlas_jax.errors import InputError


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parts[len(folder.parts)] not in ("report", ".writer")
    }


def test_a_finished_store_is_not_computed_again(source, texts, tmp_path):
    capture(source, texts, out=tmp_path / "s")
    before = len(source.shapes)
    capture(source, texts, out=tmp_path / "s")
    assert len(source.shapes) == before + 1  # the shapes alone


@pytest.mark.parametrize("pool", ["max", "tokens"])
@pytest.mark.parametrize("batches", [0, 5, 17])
def test_an_interrupted_capture_resumes_to_the_same_bytes(source, texts, tmp_path, pool, batches):
    settings = {"pool": pool, "rows_per_part": 32 if pool == "max" else 500, "batch_tokens": 256}
    capture(source, texts, out=tmp_path / "whole", **settings)
    inner, left = source.read, [batches + 1]

    def read(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return inner(*arguments)

    source.read = read
    with pytest.raises(KeyboardInterrupt):
        capture(source, texts, out=tmp_path / "s", **settings)
    with pytest.raises(InputError, match=r"has \d of \d parts: run the same capture again"):
        ActivationStore.open(tmp_path / "s")
    source.read, done = inner, len(list((tmp_path / "s" / "ledger").glob("0*")))
    assert (done > 0) == (batches > 5)
    source.shapes.clear()
    capture(source, texts, out=tmp_path / "s", **settings)
    resumed = len(source.shapes)
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    source.shapes.clear()
    capture(source, texts, out=tmp_path / "again", **settings)
    assert (resumed < len(source.shapes)) == (done > 0)


def test_twenty_kills_at_random_moments_and_the_bytes_are_the_same(tmp_path):
    here = Path(__file__)
    command = [sys.executable, str(here.with_name("kill_loop.py"))]
    command += [str(here.with_name("conftest.py")), str(tmp_path), "20", "0"]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    *stores, total = map(json.loads, process.stdout.splitlines())
    assert total == {"killed": 20, "stores": len(stores), "computed_again": []}
    moments = {done for store in stores for done in store["finished_at_each_kill"]}
    assert len(moments) > 3, "all kills fell on the same moment"


def test_a_part_is_kept_whatever_a_later_run_asks_for(source, texts, tmp_path):
    capture(source, texts, out=tmp_path / "s", rows_per_part=32)
    (tmp_path / "s" / "ledger" / "000002").unlink()
    store = capture(source, texts, out=tmp_path / "s", rows_per_part=64, batch_tokens=512)
    assert store.meta["rows_per_part"] == 32
    expected = source.expected(texts, "blocks.0.a")
    np.testing.assert_allclose(store["blocks.0.a"][:], expected, rtol=1e-6)


def test_another_recording_is_refused(source, texts, tmp_path, table_source):
    def refused(match, source=source, texts=texts, **settings):
        with pytest.raises(InputError, match=match):
            capture(source, texts, out=tmp_path / "s", **settings)

    capture(source, texts, out=tmp_path / "s")
    refused("Expected fingerprint = table-1 .* holds table-0. Use another", table_source(1))
    refused("Expected texts = ", texts=texts[:100])
    refused("sites.blocks.0.a.pools = .'mean'. in .* holds .'max'.", pool="mean")
    refused("sites.blocks.1.b.width = nothing in .* holds 9", sites=["blocks.0.a"])
    refused("Expected max_tokens = 40 in", max_tokens=40)
    refused("sites.blocks.0.a.dtype = bfloat16 in .* holds float32", dtype="bfloat16")
    meta = json.loads((tmp_path / "s" / "meta.json").read_text())
    (tmp_path / "s" / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    refused("format 2 at .* got 99: it was written by another version")
    with pytest.raises(InputError, match="another version"):
        ActivationStore.open(tmp_path / "s")


def test_an_array_of_another_store_is_refused(source, texts, tmp_path, table_source):
    capture(table_source(widths=(7, 9)), texts, out=tmp_path / "s")
    (tmp_path / "s" / "meta.json").unlink()
    (tmp_path / "s" / "ledger" / "000000").unlink()
    with pytest.raises(InputError, match=r"shape \(150, 6\) and float32, it has \(150, 7\)"):
        capture(source, texts, out=tmp_path / "s")


@pytest.mark.parametrize("url", ["folder", "memory://locked"])
def test_a_second_writer_is_refused(source, texts, tmp_path, url):
    url = tmp_path / "s" if url == "folder" else url
    meta = capture(source, texts, out=tmp_path / "other").meta
    refused = pytest.raises(InputError, match=f"Another process is writing to {url}")
    with StoreWriter(url, meta), refused:
        capture(source, texts, out=url)
    with StoreWriter(url, meta):  # free again
        pass


def test_a_lock_object_does_not_outlive_its_process(source, texts, monkeypatch):
    kv = open_kvstore("memory://left")
    monkeypatch.setattr(lock, "_SILENCE", 0.2)
    begun = time.monotonic()
    write_json(kv, ".writer", {"host": "elsewhere", "pid": 1, "since": "yesterday"})
    capture(source, texts, out="memory://left", sites=["blocks.0.a"])
    assert time.monotonic() - begun > 0.2  # it was watched for so long
    kv = open_kvstore("memory://alike")
    write_json(kv, ".writer", {"host": platform.node(), "pid": os.getpid(), "since": "before"})
    capture(source, texts, out="memory://alike")  # of a container's process of the same number
    kv = open_kvstore("memory://dead")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_json(kv, ".writer", {"host": platform.node(), "pid": dead.pid, "since": "now"})
    capture(source, texts, out="memory://dead")
    assert kv.read(".writer").result().state == "missing"
