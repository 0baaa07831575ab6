"""A checkpoint folder's tensors, read slice by slice from one or many files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from safetensors import safe_open

from atlas_jax.errors import InputError
from atlas_jax.outside import inside, parse_json, read_json, refusing

Index = tuple[slice, ...]

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
_READ_BYTES = 8 << 20
# A few rows at a time keep a transposed copy within the processor's cache.
_COPY_ROWS = 16


class TensorFile(Protocol):
    """One file of a checkpoint."""

    path: Path

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor in it."""
        ...

    def read(self, name: str, index: Index) -> np.ndarray:
        """A slice of a tensor; a view where possible."""
        ...

    def header(self) -> bytes:
        """What names its tensors, for a fingerprint."""
        ...


class SafetensorsFile:
    """A safetensors file.

    Each read maps the file anew and lets go of it, so that what was read does not stay in memory.

    Raises:
        InputError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise _missing(path)
        with refusing(str(path), "It is damaged: delete it and download it again"):
            with safe_open(path, framework="np"):
                pass  # the library checks that header and size are those of a whole file
            raw = self.header()
            self.start = len(raw)
            # A name that comes twice could have passed the library's check with other offsets.
            self.tensors: dict[str, Any] = parse_json(raw[8:], once=True)
            self.tensors.pop("__metadata__", None)

    def header(self) -> bytes:
        with self.path.open("rb") as stream:
            size = stream.read(8)
            return size + stream.read(int.from_bytes(size, "little"))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(entry["shape"]) for name, entry in self.tensors.items()}

    def read(self, name: str, index: Index) -> np.ndarray:
        entry = self.tensors[name]
        if entry["dtype"] not in _DTYPES:
            raise InputError(
                f"Expected weights of type {', '.join(_DTYPES)}, {name} in {self.path} has "
                f"{entry['dtype']}. Use a checkpoint that is not quantised."
            )
        offset = self.start + entry["data_offsets"][0]
        shape = tuple(entry["shape"])
        return np.memmap(self.path, _DTYPES[entry["dtype"]], "r", offset, shape)[index]


class Checkpoint:
    """The tensors of a folder: safetensors if there are any, else files of torch.

    Raises:
        InputError: no such files, one that is missing or damaged, or files of torch without torch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _open(folder)
        self.where: dict[str, TensorFile] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self.shapes |= file.shapes()
            self.where |= dict.fromkeys(file.shapes(), file)

    def copy(self, name: str, index: Index, target: np.ndarray) -> None:
        """Copies a slice of a tensor into an array of its shape, a few megabytes at a time."""
        file, rows = self.where[name], index[0]
        row_bytes = max(1, target[:1].nbytes)
        step = max(_COPY_ROWS, _READ_BYTES // row_bytes)
        for start in range(rows.start, rows.stop, step):
            stop = min(rows.stop, start + step)
            piece = file.read(name, (slice(start, stop), *index[1:]))
            for i in range(0, stop - start, _COPY_ROWS):
                first = start - rows.start + i
                part = piece[i : i + _COPY_ROWS]
                target[first : first + len(part)] = part

    def fingerprint(self) -> str:
        """A sha256 that names these weights: headers, sizes and 64 blocks spread over each file."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.path.stat().st_size
            digest.update(f"{file.path.name}:{size}".encode())
            digest.update(file.header())
            with file.path.open("rb") as stream:
                for step in range(64):
                    stream.seek(size * step // 64)
                    digest.update(stream.read(4096))
        return digest.hexdigest()


def _open(folder: Path) -> list[TensorFile]:
    if found := list(_listed(folder, "model.safetensors.index.json", "*.safetensors")):
        return [SafetensorsFile(path) for path in found]
    if found := list(_listed(folder, "pytorch_model.bin.index.json", "*.bin", "*.pth")):
        from atlas_jax.models.torch_file import TorchFile

        return [TorchFile(path) for path in found]
    raise InputError(
        f"Expected *.safetensors files (or *.bin, *.pth of torch) in {folder}, found none."
    )


def _listed(folder: Path, index: str, *patterns: str) -> Iterator[Path]:
    """The files that an index names, else those of the first pattern that has any."""
    if (folder / index).exists():
        path, remedy = folder / index, "Delete it and download it again"
        content = read_json(path, remedy=remedy)
        with refusing(f"the names of the files in {path}", remedy):
            yield from [
                inside(folder, name) for name in sorted(set(content["weight_map"].values()))
            ]
        return
    for pattern in patterns:
        # What the Trainer of transformers leaves beside the weights is no model.
        skip = ("training_args", "optimizer", "scheduler", "rng_state")
        found = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(skip)]
        if found:
            yield from found
            return


def _missing(path: Path) -> InputError:
    return InputError(
        f"Expected {path.name} in {path.parent}, as its index says; it is missing. Download the "
        "checkpoint again."
    )
