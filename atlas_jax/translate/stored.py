"""A translation on disk, of which single columns and rows are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from atlas_jax.errors import InputError
from atlas_jax.files import check_tensors
from atlas_jax.outside import parse_json, refusing
from atlas_jax.translate.block_sums import NOTE, CheckedBlocks

FORMAT = "atlas-jax translation 1"
MATRIX, NORMS = "matrix", "row_norms"
_BLOCK = 64
_KEPT = 256
_F32 = {"F32": "float32"}


class StoredTranslation:
    """The file of a translation; what it is asked for is read then, the matrix never whole.

    A slice touches only the pages that hold it, and is compared with the checksum of its block; a
    file of an earlier version, which has none of blocks, is compared whole before its first slice.
    Columns that were read are kept, 256 of them.

    Attributes:
        path: of the file.
        method: how it was fitted.
        meta: see `Translation`.
        shape: (d_s, d_c).

    Raises:
        InputError: no such file, or not a whole translation.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import safe_open

        self.path = Path(path)
        if not os.path.isfile(path):
            raise InputError(f"Expected a translation at {path}, there is no such file.")
        with refusing(f"the translation at {path}", "It is damaged: fit it again"):
            self._file = safe_open(self.path, framework="np")
            header = self._file.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(
                    f"Expected a file of format '{FORMAT}' at {path}, got '{header.get('format')}'."
                )
            self.method: str = header["method"]
            self.meta: Mapping[str, Any] = parse_json(header["meta"])
            self._matrix = self._file.get_slice(MATRIX)
            self._header = header
            rows, columns = self._matrix.get_shape()
            check_meta(self.meta, (rows, columns), _F32[self._matrix.get_dtype()])
        self.shape: tuple[int, int] = (rows, columns)
        self._columns: dict[int, np.ndarray] = {}

    @cached_property
    def _whole(self) -> Any:
        """The matrix on disk, all of it compared with its checksum the first time."""
        with self._undamaged():
            tensors = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            check_tensors(self._header, tensors)
            return self._matrix

    @cached_property
    def _blocks(self) -> CheckedBlocks | None:
        """What compares only what is read; files of earlier versions have no sums for it."""
        if NOTE not in self._header:
            return None
        with self._undamaged():
            check_tensors(self._header, {}, None)
            return CheckedBlocks(self._matrix, self._header)

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The translation at {self.path} is damaged ({error}): fit it again."
            ) from None

    @property
    def matrix(self) -> Float32[np.ndarray, "ds dc"]:
        """All of it, read now."""
        return self._whole[:]

    @cached_property
    def row_norms(self) -> Float32[np.ndarray, " ds"]:
        """Euclidean norm of each row, 1 for zero rows; of a file without them, in one pass."""
        if NORMS not in self._file.keys():  # noqa: SIM118
            return norms_of_rows(self._whole, self.shape[0])
        with self._undamaged():
            norms = self._file.get_tensor(NORMS)
            check_tensors(self._header, {NORMS: norms}, NORMS)
            return norms

    def column(self, concept: int) -> Float32[np.ndarray, " ds"]:
        """What the subject's features have of one atlas feature."""
        if concept not in self._columns:
            self._check(concept, 1, "atlas")
            while len(self._columns) >= _KEPT:
                del self._columns[next(iter(self._columns))]
            if self._blocks is None:
                self._columns[concept] = self._whole[:, concept : concept + 1][:, 0]
            else:
                with self._undamaged():
                    self._columns[concept] = self._blocks.column(concept)
        return self._columns[concept]

    def row(self, feature: int) -> Float32[np.ndarray, " dc"]:
        """What a subject feature has of the atlas features."""
        self._check(feature, 0, "subject")
        if self._blocks is None:
            return self._whole[feature : feature + 1][0]
        with self._undamaged():
            return self._blocks.row(feature)

    def scores(self, weights: Mapping[int, float]) -> Float32[np.ndarray, " ds"]:
        """s = T^ q / ||q|| of a query that is zero but in a few atlas features   (eq. 3).

        Raises:
            InputError: no weight but zero, or a feature that is not there.
        """
        q = np.array([weights[feature] for feature in weights], np.float64)
        norm = np.linalg.norm(q)
        if not np.isfinite(norm) or norm == 0:
            raise InputError("Expected a query that is finite and not zero.")
        columns = np.stack([self.column(feature) for feature in weights])
        return ((q / norm).astype(np.float32) @ columns) / self.row_norms

    def top_concepts(self, feature: int, k: int = 5) -> list[tuple[int, float]]:
        """The atlas features with the largest entries in a subject feature's unit row."""
        return largest(self.row(feature) / self.row_norms[feature], k)

    def _check(self, index: int, axis: int, side: str) -> None:
        if not 0 <= index < self.shape[axis]:
            raise InputError(
                f"Expected a feature of the {side} from 0 to {self.shape[axis] - 1}, got {index}."
            )


def check_meta(meta: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Refuses what is not the metadata or the matrix of a translation.

    Raises:
        ValueError: saying what it is.
    """
    if not isinstance(meta, dict):
        raise ValueError(f"its meta is {type(meta).__name__}")
    for part in ("subject", "atlas", "options", "labels"):
        if not isinstance(meta.get(part, {}), dict):
            raise ValueError(f"its {part} is of type {type(meta[part]).__name__}")
    if len(shape) != 2 or not all(shape) or dtype != "float32":
        raise ValueError(f"its matrix is of shape {shape} and {dtype}")


def norms_of_rows(matrix: Any, rows: int) -> Float32[np.ndarray, " ds"]:
    """Euclidean norms, 1 for zero rows; few rows at a time, so that no square of all exists.

    Raises:
        InputError: a row that is not finite.
    """
    parts: Sequence[np.ndarray] = [
        np.linalg.norm(matrix[start : min(start + _BLOCK, rows)].astype(np.float64), axis=1)
        for start in range(0, rows, _BLOCK)
    ]
    norms = np.concatenate([np.zeros(0, np.float32), *parts])
    if not np.isfinite(norms).all():
        raise InputError(
            f"Expected a finite translation, row {int(np.argmin(np.isfinite(norms)))} has NaN or "
            "infinity: fit it again."
        )
    return np.where(norms > 0, norms, 1).astype(np.float32)


def largest(values: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The k largest that are above zero, the lower index first among equals."""
    best = np.argsort(-values, kind="stable")[:k]
    return [(int(j), float(values[j])) for j in best if values[j] > 0]
