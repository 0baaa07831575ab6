"""A journal: JSON lines that are only ever added to, found again by id, whole after any kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from atlas_jax.errors import InputError
from atlas_jax.files import sealed, unsealed
from atlas_jax.outside import parse_json

_START = b'{"id": '


def digest(*parts: Any) -> str:
    """The id of a row: a hash of everything that its content depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """A context manager over one file; a line that a killed process left unfinished is cut off.

    Args:
        path: of the file; None keeps the rows in memory.

    Raises:
        InputError: a file of something else, one that another process is writing, or a place that
            cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.rows: dict[str, dict[str, Any]] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "a+b")
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._close()
                raise InputError(
                    f"Another process is writing to {self.path}: wait for it, or name another file."
                ) from None
            except OSError as error:
                raise InputError(
                    f"Could not write {self.path}: {error.strerror or error}. Name another file."
                ) from None
            try:
                self._read(self._file)
            except InputError:
                self._close()
                raise
        return self

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        whole = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line[: len(_START)] == _START[: len(line)]:
                break
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            try:
                row = unsealed(row)
                self.rows[row["id"]] = row
            except ValueError:
                raise InputError(
                    f"Line {number} of {self.path} was changed or damaged: delete that line, and "
                    "the same command makes it again."
                ) from None
            except (KeyError, TypeError):
                raise InputError(
                    f"Expected rows that atlas-jax wrote in {self.path}, line {number} is another "
                    "text: name another file."
                ) from None
            whole += len(line)
        file.truncate(whole)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.rows[key]

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows with their `id`; they are on disk when this returns."""
        new = [{"id": row["id"], **row} for row in rows]
        self.rows |= {row["id"]: row for row in new}
        if self._file is not None and new:
            text = "".join(json.dumps(sealed(row), ensure_ascii=False) + "\n" for row in new)
            try:
                self._file.write(text.encode("utf-8", "replace"))
                self._file.flush()
            except OSError as error:
                raise InputError(
                    f"Could not write {self.path}: {error.strerror or error}. Free some space; the "
                    "same command goes on where it stopped."
                ) from None

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take, `add` has told
                self._file.close()
            self._file = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
