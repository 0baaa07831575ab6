"""Where things lie in a store: keys, the zarr3 specification, the ledger of finished shards.

A store is a key-value store with

    meta.json              what was recorded: model, texts, pooling, shard size, sites
    <site>/                a zarr3 array (N, d), one shard for each write
    ledger/<shard>         written when that shard of every site is on disk

An array is created at its full size, and a shard that was never written reads as the fill value
without any error; the ledger alone says what is finished. The fill value is NaN, which is never
written, so a shard that is lost later cannot pass for data. Every chunk carries a crc32c.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tensorstore as ts

from atlas_jax.errors import InputError

FORMAT = 1
META = "meta.json"
_CHUNK_BYTES = 4 * 2**20
_CACHE_BYTES = 256 * 2**20

# One context, so that every handle on a `memory://` store sees the same bytes.
CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def kvstore_spec(url: str | os.PathLike[str]) -> Any:
    """A TensorStore kvstore specification of a folder or a URL, ending in a slash."""
    text = str(url)
    if "://" in text:
        return text.rstrip("/") + "/"
    return {"driver": "file", "path": str(Path(text).expanduser().absolute()) + "/"}


def open_kvstore(url: str | os.PathLike[str]) -> ts.KvStore:
    """The key-value store at a folder or URL.

    Raises:
        InputError: TensorStore knows no such URL.
    """
    try:
        return ts.KvStore.open(kvstore_spec(url), context=CONTEXT).result()
    except ValueError as error:
        raise InputError(
            f"Expected a folder or a URL that TensorStore opens (file, gs, s3, memory), got "
            f"'{url}': {str(error).splitlines()[0]}"
        ) from None


def within(url: str | os.PathLike[str], name: str) -> Any:
    """The specification of a folder inside a store."""
    spec = kvstore_spec(url)
    if isinstance(spec, str):
        return f"{spec}{name}/"
    return {**spec, "path": f"{spec['path']}{name}/"}


def read_json(kv: ts.KvStore, key: str) -> Any | None:
    """The JSON value of a key; None where there is none."""
    found = kv.read(key).result()
    return None if found.state == "missing" else json.loads(found.value)


def write_json(kv: ts.KvStore, key: str, value: Any) -> None:
    """Writes a key in one step."""
    kv.write(key, json.dumps(value, indent=1).encode()).result()


def ledger_key(shard: int) -> str:
    """The key that says a shard is finished."""
    return f"ledger/{shard:06d}"


def finished_shards(kv: ts.KvStore) -> set[int]:
    """The shards the ledger names."""
    keys = kv.list(ts.KvStore.KeyRange("ledger/", "ledger0")).result()
    return {int(key.decode().rpartition("/")[2]) for key in keys}


def array_spec(
    url: str | os.PathLike[str],
    site: str,
    shape: tuple[int, int],
    dtype: str,
    rows_per_shard: int,
    compress: bool,
) -> dict[str, Any]:
    """The zarr3 array of one site: one shard for each write, chunks of full width of about 4 MB."""
    width = shape[1]
    item = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    chunk = rows_per_shard
    while chunk % 2 == 0 and chunk * width * item > _CHUNK_BYTES:
        chunk //= 2
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    index = [*codecs, {"name": "crc32c"}]
    if compress:
        codecs.append({"name": "zstd", "configuration": {"level": 1}})
    sharding = {
        "chunk_shape": [chunk, width],
        "codecs": [*codecs, {"name": "crc32c"}],
        "index_codecs": index,
        "index_location": "end",
    }
    return {
        "driver": "zarr3",
        "kvstore": within(url, site),
        "metadata": {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [rows_per_shard, width]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "fill_value": "NaN",
        },
    }
