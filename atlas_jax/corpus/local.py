"""Documents of local files: text and tables, plain or compressed, one file or a folder of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from atlas_jax.corpus.documents import LONGEST, Document, from_rows, pieces
from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json, refusing

T = TypeVar("T")

SUFFIXES = (".csv", ".jsonl", ".parquet", ".txt")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_FIELD_LIMIT = 1 << 28
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def is_known(path: Path) -> bool:
    """Whether a file of this name can be read."""
    return _kind(path) in SUFFIXES


def local(
    path: Path, text_column: str | None = None, source_column: str | None = None
) -> Iterator[Document]:
    """Yields the documents of a file, or of every known file in a folder and below.

    A .txt file is one document, a table has one in each row; .txt, .jsonl and .csv may be
    compressed (.gz, .zst). Files are read as UTF-8, with U+FFFD for bytes that are none. A file's
    source is its name without suffix; in a folder it is the subfolder that holds it, else the
    folder; a table's own source column goes before either.

    Args:
        path: file or folder.
        text_column: of tables, where it cannot be told.
        source_column: of tables, where it cannot be told.

    Raises:
        InputError: no known file, an unreadable one, or no such column.
    """
    if path.is_file():
        yield from _file(path, _plain(path).stem, text_column, source_column)
        return
    files = sorted(p for p in path.rglob("*") if is_known(p) and p.is_file())
    if not files:
        raise InputError(f"Expected {', '.join(SUFFIXES)} files in {path}, found none.")
    for file in files:
        inside = file.relative_to(path).parts
        source = inside[0] if len(inside) > 1 else path.resolve().name
        yield from _file(file, source, text_column, source_column)


def _file(
    path: Path, source: str, text_column: str | None, source_column: str | None
) -> Iterator[Document]:
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise InputError(
            f"Expected a {', '.join(SUFFIXES)} file (also .gz or .zst), got {path}: convert it."
        )
    if kind == ".txt":
        for piece in _guarded(_text(path), path):
            yield Document(source, path.name, piece)
        return
    rows = _guarded(_READERS[kind](path), path)
    for document in from_rows(rows, path.name, text_column, source_column):
        named = document.source == path.name
        yield document._replace(source=source) if named else document


def _plain(path: Path) -> Path:
    """The path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


def _kind(path: Path) -> str:
    """The suffix that tells how to read a file."""
    kind = _plain(path).suffix.lower()
    return path.suffix.lower() if kind == ".parquet" else kind  # itself compressed, never twice


def _guarded(items: Iterator[T], path: Path) -> Iterator[T]:
    """Turns what reading a file may raise into one line."""
    with refusing(str(path)):
        yield from items


def _open(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    compression = _COMPRESSED.get(path.suffix.lower())
    stream = io.BufferedReader(pa.input_stream(str(path), compression=compression))  # type: ignore[arg-type]
    if stream.peek(2)[:2] in _UTF16:
        raise ValueError("UTF-16 text; convert it to UTF-8")
    return io.TextIOWrapper(stream, "utf-8-sig", "replace", newline)


def _text(path: Path) -> Iterator[str]:
    with _open(path) as stream:
        yield from filter(str.strip, pieces(iter(partial(stream.read, LONGEST), "")))


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with _open(path) as lines:
        for i, line in enumerate(iter(partial(lines.readline, _FIELD_LIMIT), ""), 1):
            if len(line) == _FIELD_LIMIT:
                raise ValueError(f"line {i} has more than {_FIELD_LIMIT} characters")
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {i} is not JSON ({error})") from None
            if isinstance(row, str):
                row = {"text": row}
            if not isinstance(row, Mapping):
                raise ValueError(f"line {i} holds a {type(row).__name__}, not an object")
            yield row


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_FIELD_LIMIT)  # the default of 128 KiB is less than a long document
    with _open(path, newline="") as lines:
        yield from csv.DictReader(lines)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # ArrowInvalid is a ValueError
        for batch in file.iter_batches(256):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
