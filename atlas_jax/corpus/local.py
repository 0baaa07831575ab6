"""Documents of local files: .txt, .jsonl, .csv and .parquet, one file or a folder of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atlas_jax.corpus.documents import Document, from_rows
from atlas_jax.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet", ".txt")
_FIELD_LIMIT = 1 << 28


def local(path: Path, text: str | None = None) -> Iterator[Document]:
    """Yields the documents of a file, or of every known file in a folder and below.

    A .txt file is one document; a table has one in each row. A file's source is its name without
    suffix; in a folder it is the subfolder that holds it, else the folder; a table's own source
    column goes before either.

    Args:
        path: file or folder.
        text: text column of tables, where it cannot be told.

    Raises:
        InputError: no known file, an unreadable one, or no text column.
    """
    if path.is_file():
        yield from _file(path, path.stem, text)
        return
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"Expected {', '.join(SUFFIXES)} files in {path}, found none.")
    for file in files:
        inside = file.relative_to(path).parts
        yield from _file(file, inside[0] if len(inside) > 1 else path.resolve().name, text)


def _file(path: Path, source: str, text: str | None) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"Expected a {', '.join(SUFFIXES)} file, got {path}: convert it first.")
    try:
        if suffix == ".txt":
            content = path.read_text("utf-8-sig", "replace")
            if content.strip():
                yield Document(source, path.name, content)
            return
        for document in from_rows(_READERS[suffix](path), path.name, text):
            named = document.source == path.name
            yield document._replace(source=source) if named else document
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"Expected a readable {suffix} file at {path}, got: {reason[0][:200]}"
        ) from error


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            if isinstance(row, str):
                row = {"text": row}
            if not isinstance(row, Mapping):
                raise ValueError(f"line {i} holds a {type(row).__name__}, not an object")
            yield row


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_FIELD_LIMIT)  # the default of 128 KiB is less than a long document
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # ArrowInvalid is a ValueError
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
