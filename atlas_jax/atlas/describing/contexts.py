"""Contexts of token ids, as words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d[\d.,]*\d|\d")


@dataclass(frozen=True)
class Context:
    """A context cut into words.

    Attributes:
        words: in order; letters (with apostrophes), or a number.
        word_of: for each token, the index of the word it belongs to, or -1.
        pieces: each token's own text.
        before: for each token, the index of the last word that ended before it, or -1.
    """

    words: list[str]
    word_of: list[int]
    pieces: list[str]
    before: list[int]


@dataclass
class ContextReader:
    """Cuts contexts into words; each token's text is looked up once.

    Attributes:
        pieces: text of every token id.
        tokens: (contexts, length).
    """

    pieces: list[str]
    tokens: Int[np.ndarray, "contexts length"]
    _known: dict[int, Context] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Context:
        if index not in self._known:
            self._known[index] = cut_words([self.pieces[t] for t in self.tokens[index]])
        return self._known[index]


def cut_words(pieces: list[str]) -> Context:
    """Joins tokens to a text and says which word each token belongs to."""
    ends = np.cumsum([len(piece) for piece in pieces])
    text = "".join(pieces)
    words: list[str] = []
    owner = np.full(len(text) + 1, -1)
    last = np.full(len(text) + 1, -1)
    for match in _WORD.finditer(text):
        owner[match.start() : match.end()] = len(words)
        last[match.end() :] = len(words)
        words.append(match.group())
    word_of, before = [], []
    for piece, end in zip(pieces, ends, strict=True):
        inside = owner[end - len(piece) : end]
        found = inside[inside >= 0]
        # A token that spans two words belongs to the later one: it is where the model has read to.
        word = int(found[-1]) if len(found) else -1
        word_of.append(word)
        before.append(word - 1 if word >= 0 else int(last[end - len(piece)]))
    return Context(words, word_of, pieces, before)
