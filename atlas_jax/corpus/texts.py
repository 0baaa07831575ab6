"""Texts in a fixed order, held by Arrow: a million of them take the space of their letters."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, overload

import pyarrow as pa

from atlas_jax.errors import InputError

COLUMNS = ("text", "source", "document")
_BLOCK = 1 << 14


class Column(Sequence[str]):
    """A column of strings, read as a sequence; a slice of it is a list.

    Args:
        values: of Arrow strings, dictionary-encoded or not.
    """

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        if isinstance(index, slice):
            return _taken(self.values, index).to_pylist()
        return self.values[_place(index, len(self))].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self.values.slice(start, _BLOCK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Column({len(self)} strings)"


class Texts(Sequence[str]):
    """Texts in a fixed order, each with its source and its document.

    A sequence of strings; a slice of it is `Texts` again, and copies nothing.

    Args:
        texts: the texts.
        sources: where each comes from; "" for all when left out.
        documents: the document each was part of; "" for all when left out.

    Raises:
        InputError: the three differ in length, or UTF-8 cannot hold one.
    """

    def __init__(
        self,
        texts: Sequence[str],
        sources: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
    ) -> None:
        nothing = [""] * len(texts)
        columns = [texts, nothing if sources is None else sources]
        columns.append(nothing if documents is None else documents)
        lengths = tuple(map(len, columns))
        if len(set(lengths)) != 1:
            raise InputError(
                "Expected a source and a document for each text, got "
                f"{lengths[0]} texts, {lengths[1]} sources, {lengths[2]} documents."
            )
        try:
            arrays = [pa.chunked_array([pa.array(list(c), pa.string())]) for c in columns]
        except UnicodeEncodeError as error:
            raise InputError(
                f"Expected texts that UTF-8 can hold, got {error.object[error.start]!r} in one: "
                "pass text.encode('utf-8', 'replace').decode('utf-8')."
            ) from None
        self.table = pa.table(dict(zip(COLUMNS, arrays, strict=True)))
        self._hash: str | None = None

    @classmethod
    def of_table(cls, table: pa.Table) -> Texts:
        """Texts that are the rows of an Arrow table with the columns text, source and document."""
        texts = cls.__new__(cls)
        texts.table = table.select(COLUMNS)
        texts._hash = None
        return texts

    @property
    def texts(self) -> Column:
        """The texts alone."""
        return Column(self.table["text"])

    @property
    def sources(self) -> Column:
        """The source of each text."""
        return Column(self.table["source"])

    @property
    def documents(self) -> Column:
        """The document of each text."""
        return Column(self.table["document"])

    @property
    def hash(self) -> str:
        """sha256 of the texts in order; each goes in after its length in bytes."""
        if self._hash is None:
            digest = hashlib.sha256()
            add_to_hash(digest, self.texts)
            self._hash = digest.hexdigest()
        return self._hash

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts.of_table(_taken(self.table, index))
        return self.texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts):
            return NotImplemented
        return plain(self.table).equals(plain(other.table))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sources = len(self.table["source"].unique())
        return f"Texts({len(self)} texts of {sources} sources)"


def plain(table: pa.Table) -> pa.Table:
    """The table with strings for columns, none dictionary-encoded."""
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))


def counts_of(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs."""
    return {str(pair["values"]): pair["counts"] for pair in column.value_counts().to_pylist()}


def add_to_hash(digest: Any, texts: Column) -> None:
    """Continues a hash with texts, each after its length in bytes of UTF-8."""
    for start in range(0, len(texts), _BLOCK):
        contents = (text.encode() for text in texts[start : start + _BLOCK])
        digest.update(b"".join(b"%d\n%b" % (len(content), content) for content in contents))


def _taken(rows: Any, index: slice) -> Any:
    start, stop, step = index.indices(len(rows))
    if step == 1:
        return rows.slice(start, max(0, stop - start))
    return rows.take(pa.array(range(start, stop, step), pa.int64()))


def _place(index: SupportsIndex, length: int) -> int:
    place = operator.index(index)
    place += length if place < 0 else 0
    if not 0 <= place < length:
        raise IndexError(f"index {index} of {length} texts")
    return place
