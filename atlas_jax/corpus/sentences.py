"""Sentences out of documents, and the filters of the paper's appendix A.2.

Sentence splitting is NLTK's; then lengths outside the 5th to 95th percentile go, sentences
without a letter go, repeated ones go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from atlas_jax.corpus.documents import Document


class Sentence(NamedTuple):
    """One sentence with its source and its document."""

    source: str
    document: str
    text: str


@runtime_checkable
class Splitter(Protocol):
    """What splits a text into sentences."""

    def tokenize(self, text: str) -> list[str]: ...


@cache
def punkt() -> Splitter:
    """NLTK's English sentence tokenizer, its model fetched when first asked for."""
    import nltk.data
    from nltk.tokenize.punkt import PunktTokenizer

    from atlas_jax.assets import fetch

    folder = str(Path(fetch("punkt-tab")))
    if folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    return PunktTokenizer("english")


def normalise(text: str) -> str:
    """White space to single spaces; what UTF-8 cannot hold (lone surrogates) to "?"."""
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")


def sentences_of(document: Document, splitter: Splitter) -> list[Sentence]:
    """The sentences of a document, white space normalised."""
    source, name, text = document
    sentences = (normalise(piece) for piece in splitter.tokenize(text))
    return [Sentence(source, name, sentence) for sentence in sentences if sentence]


def length_bounds(
    sentences: Sequence[Sentence], percentiles: tuple[float | int, float | int]
) -> tuple[float, float]:
    """The lengths in characters at the two percentiles."""
    lengths = np.fromiter((len(s.text) for s in sentences), np.int64, len(sentences))
    low, high = np.percentile(lengths, percentiles)
    return float(low), float(high)


def within(sentences: Iterable[Sentence], bounds: tuple[float, float]) -> list[Sentence]:
    """Sentences whose length lies within `bounds`, both ends included."""
    low, high = bounds
    return [s for s in sentences if low <= len(s.text) <= high]


def with_letters(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Sentences that hold more than numbers and special characters: at least one letter."""
    return [s for s in sentences if any(map(str.isalpha, s.text))]


def unique(sentences: Iterable[Sentence]) -> list[Sentence]:
    """One of each text: the one whose source and document come first in the alphabet.

    The order in which documents were read therefore plays no role.
    """
    kept: dict[str, Sentence] = {}
    for sentence in sentences:
        other = kept.setdefault(sentence.text, sentence)
        if sentence < other:
            kept[sentence.text] = sentence
    return list(kept.values())


def count(sentences: Iterable[Sentence]) -> dict[str, int]:
    """How many sentences each source has, sources in alphabetical order."""
    return dict(sorted(Counter(s.source for s in sentences).items()))
