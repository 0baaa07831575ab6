"""A raw document, and where the columns of a table hold its text and its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json

LONGEST = 1 << 20
"""Characters of a piece of text, at most: what one document can claim of memory."""

_TEXT = ("text", "content", "document", "article", "body", "sentence", "raw_content")
_SOURCE = (
    "meta.pile_set_name",
    "meta.source",
    "metadata.source",
    "pile_set_name",
    "source",
    "subset",
    "domain",
)
_DOCUMENT = ("id", "doc_id", "document_id", "title", "url")


class Document(NamedTuple):
    """One raw document: where it comes from, its name there, its text."""

    source: str
    document: str
    text: str


def pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Joins blocks of text and cuts them into pieces of at most `LONGEST` characters.

    A cut falls after the last empty line of the second half of a piece, else after its last line,
    else after its last space, else where the piece is full.
    """
    text = ""
    for block in blocks:
        text += block
        while len(text) > LONGEST:
            ends = (text.rfind(gap, LONGEST // 2, LONGEST) for gap in ("\n\n", "\n", " "))
            at = next((end for end in ends if end >= 0), LONGEST)
            yield text[:at]
            text = text[at:]
    yield text


def from_rows(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    text_column: str | None = None,
    source_column: str | None = None,
) -> Iterator[Document]:
    """Yields the documents that table rows hold.

    The text column is the one named, else the first known name, else the only column of strings.
    The source column may lie inside another (`meta.pile_set_name`); it is the one named, else the
    first known name. Rows without text are left out.

    Args:
        rows: mappings from column to value.
        name: source of rows that name none, and prefix of the document names.
        text_column: holds the text.
        source_column: holds the source.

    Raises:
        InputError: no such column.
    """
    column = text_column
    places = (source_column,) if source_column else _SOURCE
    for i, row in enumerate(rows):
        if column is None or column not in row:
            column = _text_column(row, name, text_column)
        if source_column and _lookup(row, source_column) is _NOWHERE:
            raise _missing(source_column, name, row, "name the column that holds the source")
        value = row[column]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, str) or not value.strip():
            continue
        found = (_lookup(row, place) for place in places)
        source = next((s for s in found if isinstance(s, str) and s), name)
        document = next(
            (str(row[key]) for key in _DOCUMENT if key != column and row.get(key) is not None), None
        )
        yield Document(source, document or f"{name}:{i}", value)


def _text_column(row: Mapping[str, Any], name: str, wanted: str | None) -> str:
    strings = [key for key, value in row.items() if isinstance(value, str)]
    found = next((key for key in _TEXT if key in row), None)
    if wanted is None and found is None and len(strings) == 1:
        found = strings[0]
    if wanted is not None or found is None:
        expected = wanted or f"a text column ({', '.join(_TEXT)})"
        raise _missing(expected, name, row, "name the column that holds the text (text_column)")
    return found


def _missing(expected: str, name: str, row: Mapping[str, Any], cure: str) -> InputError:
    columns = ", ".join(" ".join(str(key).split())[:40] for key in row) or "none"
    return InputError(f"Expected {expected} in {name}, got the columns {columns[:400]}: {cure}.")


_NOWHERE = object()


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, `_NOWHERE` if there is no such column."""
    value: Any = row
    for key in path.split("."):
        if isinstance(value, str) and value.startswith("{"):  # some exports keep JSON as a string
            try:
                value = parse_json(value)
            except ValueError:
                return None
        if value is None:
            return None
        if not isinstance(value, Mapping) or key not in value:
            return _NOWHERE
        value = value[key]
    return value
