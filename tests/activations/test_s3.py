"""A store on S3, against a local server: written, resumed, locked, damaged."""

import urllib.request

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore, capture, lock
from atlas_jax.activations.kvstore import create, keys, kvstore_spec, open_kvstore
from atlas_jax.activations.lock import WriterLock
from atlas_jax.errors import InputError


@pytest.fixture(scope="module")
def server():
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, request):
    name = f"bucket-{abs(hash(request.node.name))}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return f"s3://{name}/runs/a"


def test_written_interrupted_resumed_and_read(source, texts, bucket):
    inner = source.read

    def read(*arguments):
        if len(source.shapes) > 16:
            raise KeyboardInterrupt
        return inner(*arguments)

    source.read = read
    settings = {"out": bucket, "rows_per_part": 32, "batch_tokens": 256}
    with pytest.raises(KeyboardInterrupt):
        capture(source, texts, **settings)
    with pytest.raises(InputError, match="of 5 parts: run the same capture again"):
        ActivationStore.open(bucket)
    source.read = inner
    store = capture(source, texts, **settings)
    for site in source.sites:
        np.testing.assert_array_equal(store[site][:], source.expected(texts, site))
    order = np.argsort(-store["blocks.0.a"][:], axis=0, kind="stable")[:5]
    np.testing.assert_array_equal(store.top_samples("blocks.0.a", 5).rows, order)
    kv = open_kvstore(bucket)
    assert "blocks.0.a/max.npz" in keys(kv, "top/")  # saved beside it
    assert kv.read(".writer").result().state == "missing"
    kv.write("blocks.1.b/max/c/3/0", None).result()
    with pytest.raises(InputError, match=r"lacks a shard, c/3/0 \(rows 96 to 127\)"):
        ActivationStore.open(bucket)["blocks.1.b"]


def test_one_of_several_creates_a_key(bucket):
    kv = open_kvstore(bucket)
    missing = kv.read("lock").result().stamp.generation
    # Both have seen that it is not there.
    tries = [kv.write("lock", value, if_equal=missing).result() for value in (b"1", b"2")]
    assert [bool(found.generation) for found in tries] == [True, False]
    assert kv.read("lock").result().value == b"1"
    assert not create(kv, "lock", b"3") and create(kv, "other", b"3")


def test_a_second_writer_is_refused(source, texts, bucket):
    lock = WriterLock(bucket)
    lock.take()
    with pytest.raises(InputError, match=f"Another process is writing to {bucket} .process"):
        capture(source, texts, out=bucket)
    lock.release()
    capture(source, texts, out=bucket)


def test_a_lock_of_another_machine(source, texts, bucket, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT", 0.05)
    monkeypatch.setattr(lock, "_SILENCE", 0.5)
    living = WriterLock(bucket)
    monkeypatch.setattr(lock.platform, "node", lambda: "other")
    living.take()
    monkeypatch.setattr(lock.platform, "node", lambda: "here")
    with pytest.raises(InputError, match="Another process is writing .* on other, since"):
        WriterLock(bucket).take()
    living._ended.set()  # as if it had been killed: nothing is written any more
    mine = WriterLock(bucket)
    mine.take()
    mine.release()


def test_where_a_url_leads(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert kvstore_spec("s3://bucket/c") == {"driver": "s3", "bucket": "bucket", "path": "c/"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    spec = kvstore_spec("s3://bucket/c")
    assert spec["endpoint"] == "http://localhost:9" and spec["aws_region"] == "eu-west-1"
    assert kvstore_spec("gs://bucket/c/") == {"driver": "gcs", "bucket": "bucket", "path": "c/"}
    assert kvstore_spec("file:///x/y") == {"driver": "file", "path": "/x/y/"}
    assert kvstore_spec("/x/y") == {"driver": "file", "path": "/x/y/"}
