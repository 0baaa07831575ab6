"""Judges that need no endpoint: by sentence embeddings, and by words.

They are cruder than a language model. `judge_sentences.json` holds sentences whose ratings are
known by how they were written; the thresholds below were taken from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from atlas_jax.atlas.embed import Embedder, SentenceEmbedder
from atlas_jax.errors import InputError

PRESENT = 0.29
VAGUE = 0.21
_PIECE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_EMPTY = frozenset("a an and as at by for from in into is it of on or that the to with".split())
_ENDINGS = ("ingly", "ings", "ing", "ers", "er", "ies", "es", "ed", "s", "y", "e")
_LEAST_STEM = 3
_MOST_PIECES = 64


class EmbeddingJudge:
    """The cosine of the concept and the nearest sentence of a text, cut at two thresholds.

    Args:
        embedder: of both; default: all-MiniLM-L6-v2.
        present: cosine from which a text is rated 2.
        vague: cosine from which it is rated 1.
    """

    name = "embedding"

    def __init__(
        self, embedder: Embedder | None = None, present: float = PRESENT, vague: float = VAGUE
    ) -> None:
        if not vague <= present:
            raise InputError(f"Expected vague <= present, got {vague} and {present}.")
        self._given, self.present, self.vague = embedder, present, vague

    @cached_property
    def embedder(self) -> Embedder:
        """What compares, loaded when first asked."""
        return self._given or SentenceEmbedder()

    @property
    def fingerprint(self) -> str:
        """Weights and thresholds."""
        return f"{self.embedder.fingerprint} {self.present} {self.vague}"

    def rate(self, concepts: Sequence[str], texts: Sequence[str]) -> list[int | None]:
        """See `Judge`."""
        best = self.cosines(concepts, texts)
        return [int(c >= self.vague) + int(c >= self.present) for c in best]

    def cosines(self, concepts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Of each concept and the nearest sentence of the text beside it; -1 without a word."""
        pieces = [_pieces(text) for text in texts]
        names = {name: i for i, name in enumerate(dict.fromkeys(concepts))}
        known = {
            piece: i for i, piece in enumerate(dict.fromkeys(p for row in pieces for p in row))
        }
        a, b = self.embedder.embed(list(names)), self.embedder.embed(list(known))
        return np.array(
            [
                max((float(a[names[concept]] @ b[known[p]]) for p in row), default=-1.0)
                for concept, row in zip(concepts, pieces, strict=True)
            ]
        )

    def report(self) -> dict[str, Any]:
        """See `Judge`."""
        return {"judge": self.name, "present": self.present, "vague": self.vague}


class LexicalJudge:
    """By words: 2 where a word of the concept occurs, in any inflection; 1 for a related word.

    Args:
        related: {concept: words}, such as those of the descriptions of the query's features.
    """

    name = "lexical"

    def __init__(self, related: Mapping[str, Sequence[str]] | None = None) -> None:
        self.related = {k: frozenset(_stems(" ".join(v))) for k, v in (related or {}).items()}

    @property
    def fingerprint(self) -> str:
        """The words."""
        return repr(sorted((k, sorted(v)) for k, v in self.related.items()))

    def rate(self, concepts: Sequence[str], texts: Sequence[str]) -> list[int | None]:
        """See `Judge`."""
        ratings: list[int | None] = []
        for concept, text in zip(concepts, texts, strict=True):
            said = set(_stems(text))
            named = said & set(_stems(concept))
            ratings.append(2 if named else int(bool(said & self.related.get(concept, frozenset()))))
        return ratings

    def report(self) -> dict[str, Any]:
        """See `Judge`."""
        return {"judge": self.name, "related": {k: sorted(v) for k, v in self.related.items()}}


def _pieces(text: str) -> list[str]:
    found = [" ".join(piece.split()) for piece in _PIECE.split(text)]
    return [piece for piece in found if piece][:_MOST_PIECES]


def _stems(text: str) -> list[str]:
    """Words without their endings: `cats` and `cat`, `gardening` and `gardens`, are one."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _EMPTY]


def _stem(word: str) -> str:
    word = re.sub(r"['’]s?$", "", word)
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)]
    return word
