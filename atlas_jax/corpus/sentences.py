"""Sentences out of documents: NLTK's tokenizer, white space normalised."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from atlas_jax.outside import utf8


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
    return utf8(" ".join(text.split()))


def sentences_of(text: str, splitter: Splitter) -> list[str]:
    """The sentences of a text, white space normalised."""
    return [sentence for piece in splitter.tokenize(text) if (sentence := normalise(piece))]


def has_letter(sentence: str) -> bool:
    """Whether a sentence holds more than numbers and special characters."""
    return any(map(str.isalpha, sentence))
