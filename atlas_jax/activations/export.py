"""Rows of activations as a file that other programs read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import writing

_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def export_rows(
    path: str | os.PathLike[str],
    batches: Iterable[np.ndarray],
    shape: tuple[int, int],
    dtype: np.dtype,
    meta: Mapping[str, Any],
    indices: np.ndarray | None = None,
) -> Path:
    """Writes rows to a file, a batch at a time.

    `.npy` has no bfloat16 and holds float32 instead; `.safetensors` has one tensor `activations`,
    and the meta in its header; `.parquet` has the columns `row` and `activations` (a list of
    float32, or float16).

    Args:
        path: of the file; written under another name until it is whole.
        batches: the rows in order.
        shape: of all of them.
        dtype: of the values.
        meta: what they are.
        indices: their numbers; default: 0, 1, 2, ...

    Raises:
        InputError: another ending, or a place that cannot be written to.
    """
    path = Path(path).expanduser()
    if path.suffix not in FILES:
        raise InputError(f"Expected a file ending in {', '.join(FILES)}, got '{path.name}'.")
    numbers = np.arange(shape[0]) if indices is None else indices
    with writing(path) as draft:
        FILES[path.suffix](draft, batches, shape, dtype, meta, numbers)
    return path


def _npy(draft, batches, shape, dtype, meta, numbers) -> None:
    kept = np.dtype(np.float32) if dtype.name == "bfloat16" else dtype
    header = {"descr": kept.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    with draft.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch.astype(kept, copy=False)).tobytes())


def _safetensors(draft, batches, shape, dtype, meta, numbers) -> None:
    size = shape[0] * shape[1] * dtype.itemsize
    entry = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [0, size]}
    kept = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()
    }
    header = json.dumps({"__metadata__": kept, "activations": entry}).encode()
    header += b" " * (-len(header) % 8)
    with draft.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch).tobytes())


def _parquet(draft, batches, shape, dtype, meta, numbers) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = np.dtype(np.float16 if dtype == np.float16 else np.float32)
    rows = pa.list_(pa.from_numpy_dtype(kept), shape[1])
    notes = {"atlas_jax": json.dumps(dict(meta))}
    schema = pa.schema([("row", pa.int64()), ("activations", rows)], metadata=notes)
    start = 0
    with pq.ParquetWriter(draft, schema) as out:
        for batch in batches:
            flat = pa.array(batch.astype(kept, copy=False).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, shape[1])
            index = pa.array(numbers[start : start + len(batch)])
            out.write_table(pa.table([index, lists], schema=out.schema))
            start += len(batch)


FILES = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
"""The kinds of file, by ending."""
