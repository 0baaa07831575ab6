"""Contexts of filler words with planted ones, and an embedder that knows which words belong."""

import numpy as np
import pytest

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader

FILLER = "the people of that place said they would have it all again soon".split()
SEA = ["fleet", "vessel", "harbour", "sailors"]
LENGTH = 12


class Planted:
    """Contexts of filler words with chosen words at place 6, and activity on those."""

    def __init__(self) -> None:
        self.pieces = [""]
        self.contexts: list[list[int]] = []
        self.entries: dict[int, list[tuple[int, float]]] = {}
        self.random = np.random.default_rng(0)

    def token(self, piece: str) -> int:
        if piece not in self.pieces:
            self.pieces.append(piece)
        return self.pieces.index(piece)

    def add(self, feature: int, word: list[str], around=(), before: str = "") -> None:
        filler = [f" {w}" for w in self.random.choice(FILLER, LENGTH)]
        text = ["", *filler[:5], *word, *filler][:LENGTH]
        if before:
            text[5] = f" {before}"
        for place, other in zip((2, 4, 9, 10), around, strict=False):
            text[place] = f" {other}"
        place = 5 + len(word)
        self.contexts.append([self.token(piece) for piece in text])
        row = (len(self.contexts) - 1) * (LENGTH - 1) + place - 1
        self.entries.setdefault(feature, []).append((row, 5 + self.random.uniform()))

    def material(self, n_features: int, contexts: range | None = None):
        """Activity on some contexts, and the reader of all."""
        contexts = range(len(self.contexts)) if contexts is None else contexts
        starts, rows, values = [0], [], []
        for feature in range(n_features):
            for row, value in sorted(self.entries.get(feature, ()), key=lambda e: -e[1]):
                if row // (LENGTH - 1) not in contexts:
                    continue
                rows.append(row)
                values.append(value)
            starts.append(len(rows))
        activity = Activity(
            np.array(starts, np.int64),
            np.array(rows, np.int64),
            np.array(values, np.float32),
            len(contexts) * (LENGTH - 1),
        )
        return activity, ContextReader(self.pieces, np.array(self.contexts, np.int32))


class ThemeEmbedder:
    """Texts as unit vectors over a few themes, each a list of words, and a direction for all."""

    fingerprint = "themes"
    themes = (
        "fleet vessel harbour sailors ship sea",
        "dog puppy cat",
        "tax budget money",
    )

    def __init__(self) -> None:
        self.width = len(self.themes) + 1

    def embed(self, texts):
        rows = []
        for text in texts:
            words = [word.strip(',:."') for word in text.lower().split()]
            counts = [sum(word in theme.split() for word in words) for theme in self.themes]
            rows.append([*counts, 0.5])
        found = np.array(rows, np.float32).reshape(-1, self.width)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def planted():
    return Planted()


@pytest.fixture(scope="session")
def make_planted():
    return Planted


@pytest.fixture(scope="session")
def sea():
    return SEA


@pytest.fixture(scope="session")
def embedder():
    return ThemeEmbedder()
