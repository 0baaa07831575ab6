"""Checksums of blocks of a stored matrix, so that some of its rows or columns can be compared."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from atlas_jax.outside import parse_json

ROWS, COLUMNS = 64, 128
"""Of a block: all columns of so many rows, and all rows of so many columns."""
NOTE = "blocks"


def block_sums(matrix: Float32[np.ndarray, "r c"]) -> dict[str, str]:
    """The note that goes into the file: crc32 of each block of rows, and of each of columns."""
    rows, columns = [], [0] * -(-matrix.shape[1] // COLUMNS)
    for start in range(0, len(matrix), ROWS):
        block = np.ascontiguousarray(matrix[start : start + ROWS])
        rows.append(zlib.crc32(block.data))
        for i in range(len(columns)):
            part = np.ascontiguousarray(block[:, i * COLUMNS : (i + 1) * COLUMNS])
            columns[i] = zlib.crc32(part.data, columns[i])
    return {NOTE: json.dumps({"rows": rows, "columns": columns})}


class CheckedBlocks:
    """Rows and columns of a matrix on disk, each block compared when it is first read.

    Args:
        matrix: a slice of safetensors, (r, c).
        notes: of the file, themselves compared already.
    """

    def __init__(self, matrix: Any, notes: Mapping[str, str]) -> None:
        self._matrix, self._shape, sums = matrix, matrix.get_shape(), parse_json(notes[NOTE])
        self._sums = {"row": list(sums["rows"]), "column": list(sums["columns"])}
        self._good: set[tuple[str, int]] = set()

    def row(self, index: int) -> Float32[np.ndarray, " c"]:
        """One row.

        Raises:
            ValueError: its block is not the one that was written.
        """
        start = index // ROWS * ROWS
        if ("row", start) in self._good:
            return self._matrix[index : index + 1][0]
        block = self._matrix[start : min(start + ROWS, self._shape[0])]
        self._compare("row", start, ROWS, block)
        return block[index - start]

    def column(self, index: int) -> Float32[np.ndarray, " r"]:
        """One column.

        Raises:
            ValueError: its block is not the one that was written.
        """
        start = index // COLUMNS * COLUMNS
        if ("column", start) in self._good:
            return self._matrix[:, index : index + 1][:, 0]
        block = self._matrix[:, start : min(start + COLUMNS, self._shape[1])]
        self._compare("column", start, COLUMNS, block)
        return np.ascontiguousarray(block[:, index - start])

    def _compare(self, kind: str, start: int, size: int, block: np.ndarray) -> None:
        known = self._sums[kind]
        at = start // size
        if at >= len(known) or zlib.crc32(np.ascontiguousarray(block).data) != known[at]:
            raise ValueError(f"the checksum of {kind}s {start} to {start + size - 1} differs")
        self._good.add((kind, start))
