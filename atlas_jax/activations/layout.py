"""Where things lie in a store: keys, the zarr3 arrays, the ledger of finished parts.

A store is a key-value store with

    meta.json              what was recorded: model, texts, poolings, sites, the size of a part
    <site>/<pool>/         a zarr3 array (rows, d); rows are texts, or tokens for the pool `tokens`
    ids/, offsets/         of tokens only: their ids, and where each text begins (N + 1)
    ledger/<part>          written when that part of every array is on disk
    report/<process>       what the last capture took
    top/<site>/<pool>.npz  the texts that activate each feature most, once somebody asked

An array is created at its full size, and a shard that was never written reads as the fill value
without any error; the ledger alone says what is finished. The fill value of activations is NaN,
which is never written, so a shard that is lost later cannot pass for data. Every chunk carries a
crc32c.

A part is what is planned, computed and entered in the ledger together: so many rows, of all arrays.
It is one shard of an array, or several where its rows are wide.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import tensorstore as ts

from atlas_jax.activations.kvstore import keys, within

FORMAT = 2
META = "meta.json"
IDS, OFFSETS = "ids", "offsets"
_CHUNK_BYTES = 4 * 2**20
_SHARD_BYTES = 128 * 2**20


def array_name(site: str, pool: str) -> str:
    """The folder of an array."""
    return f"{site}/{pool}"


def ledger_key(part: int) -> str:
    """The key that says a part is finished."""
    return f"ledger/{part:06d}"


def finished_parts(kv: ts.KvStore) -> set[int]:
    """The parts that the ledger names."""
    return {int(key) for key in keys(kv, "ledger/") if re.fullmatch("[0-9]{6,9}", key)}


def shard_rows(rows_per_part: int, width: int, itemsize: int) -> int:
    """Rows of a shard: a part, halved until it has at most 128 MB."""
    return _halved(rows_per_part, width * itemsize, _SHARD_BYTES)


def grid_of(array: ts.TensorStore) -> tuple[int, int]:
    """Rows of a shard and of a chunk of an array."""
    shard, chunk = (
        part.shape for part in (array.chunk_layout.write_chunk, array.chunk_layout.read_chunk)
    )
    assert shard and chunk and shard[0] and chunk[0]
    return shard[0], chunk[0]


def _halved(rows: int, row_bytes: int, limit: int) -> int:
    while rows % 2 == 0 and rows * row_bytes > limit:
        rows //= 2
    return rows


def array_spec(
    url: str | os.PathLike[str],
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    rows_per_part: int,
    compress: bool,
) -> dict[str, Any]:
    """A zarr3 array: shards of full width, in chunks of full width of at most about 4 MB."""
    itemsize = np.dtype(ts.dtype(dtype).numpy_dtype).itemsize
    width = int(np.prod(shape[1:], dtype=np.int64))
    shard = shard_rows(rows_per_part, width, itemsize)
    chunk = _halved(shard, width * itemsize, _CHUNK_BYTES)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    index = [*codecs, {"name": "crc32c"}]
    if compress:
        codecs.append({"name": "zstd", "configuration": {"level": 1}})
    sharding = {
        "chunk_shape": [chunk, *shape[1:]],
        "codecs": [*codecs, {"name": "crc32c"}],
        "index_codecs": index,
        "index_location": "end",
    }
    return {
        "driver": "zarr3",
        "kvstore": within(url, name),
        "metadata": {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [shard, *shape[1:]]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "fill_value": -1 if dtype.startswith("int") else "NaN",
        },
    }


def top_key(site: str, pool: str) -> str:
    """The key of the samples that activate each feature most."""
    return f"top/{site}/{pool}.npz"
