"""A raw document, and where the columns of a table hold its text and its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from atlas_jax.errors import InputError

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


def from_rows(rows: Iterable[Mapping[str, Any]], name: str, text: str | None = None):
    """Yields the documents that table rows hold.

    The text column is `text`, else the first known name, else the only column of strings; the
    source column may be nested (`meta.pile_set_name`). Rows without text are left out.

    Args:
        rows: mappings from column to value.
        name: source of rows that name none, and prefix of the document names.
        text: text column.

    Raises:
        InputError: no text column.
    """
    column = text
    for i, row in enumerate(rows):
        if column is None or column not in row:
            column = _text_column(row, name, text)
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            continue
        source = next((s for key in _SOURCE if (s := _lookup(row, key))), name)
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
        raise InputError(
            f"Expected {expected} in {name}, got the columns {', '.join(map(str, row)) or 'none'}: "
            "rename the column that holds the text to `text`."
        )
    return found


def _lookup(row: Mapping[str, Any], path: str) -> str | None:
    value: Any = row
    for key in path.split("."):
        if isinstance(value, str) and value.startswith("{"):  # some exports keep JSON as a string
            try:
                value = json.loads(value)
            except ValueError:
                return None
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value else None
