"""Passages of whole documents: texts long enough for tokens with much to their left."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_jax.corpus import Texts, documents
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

_SHORTEST = 0.6
"""Of the length wanted: shorter rests are left out."""


def read_passages(
    source: str, count: int, characters: int, of_a_document: int, split: str = "test"
) -> Texts:
    """The first passages of a source's documents.

    Args:
        source: as for `documents`.
        count: passages, at most.
        characters: of a passage.
        of_a_document: passages of one document, at most.
        split: of a hub data set.

    Raises:
        InputError: no document is long enough.
    """
    rows: list[tuple[str, str, str]] = []
    with Bar("passages", count) as bar:
        for document in documents(source, split=split):
            for i, passage in enumerate(cut(document.text, characters)):
                if i == of_a_document or len(rows) == count:
                    break
                rows.append((passage, document.source, document.document))
                bar.advance()
            if len(rows) == count:
                break
    if not rows:
        raise InputError(
            f"Expected documents of at least {round(_SHORTEST * characters)} characters in "
            f"{source}, found none: ask for shorter passages."
        )
    return Texts(*([row[column] for row in rows] for column in range(3)))


def cut(text: str, characters: int) -> Iterator[str]:
    """Passages of a text, which end at white space where there is some."""
    start = 0
    while len(text) - start >= _SHORTEST * characters:
        end = start + characters
        if end < len(text):
            space = max(text.rfind(gap, start + characters // 2, end) for gap in (" ", "\n"))
            end = space if space > 0 else end
        yield text[start:end].strip()
        start = end
