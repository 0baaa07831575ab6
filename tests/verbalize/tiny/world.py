"""A world in which the right words for a direction are known, and two models' views of it.

A concept is an adjective and a noun. The source model's activations are x = mu + concepts + noise,
those of the target y = A x + b + noise; the target's direction of a concept c is A c. A fourth of
the pairs of words is never shown in training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

P, Q = 64, 72
ADJECTIVES = "red cold quiet old bright heavy sweet early broken distant wild simple".split()
NOUNS = (
    "river engine letter garden winter soldier number bird window song bridge doctor market "
    "child mountain law"
).split()
TEMPLATE = "What does the vector mean ? <concept>{injection_char}</concept>"
MARKER = "㈎"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<turn> model{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<turn>", "<end>"]
TAGS = ["<concept>", "</concept>", MARKER, "<explanation>", "</explanation>"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class World(NamedTuple):
    """Codes of concepts on both sides, by adjective and noun, and the map between the two."""

    source: np.ndarray  # (12, 16, P)
    target: np.ndarray  # (12, 16, Q)
    map: np.ndarray  # (Q, P)
    mean_x: np.ndarray
    offset: np.ndarray
    seen: np.ndarray  # (12, 16) bool

    def names(self, seen: bool) -> list[str]:
        """The words of concepts that were shown in training, or of those that were not."""
        pairs = zip(*np.nonzero(self.seen == seen), strict=True)
        return [f"{ADJECTIVES[i]} {NOUNS[j]}" for i, j in pairs]

    def codes(self, side: str, seen: bool) -> np.ndarray:
        """Their directions, in the same order."""
        return getattr(self, side)[self.seen == seen]

    def activations(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of both models on the same texts: three concepts are present in each."""
        rng = np.random.default_rng(seed)
        flat = self.source.reshape(-1, P)
        present = rng.integers(len(flat), size=(n, 3))
        x = self.mean_x + flat[present].sum(axis=1) + 0.15 * rng.standard_normal((n, P))
        y = x @ self.map.T + self.offset + 0.15 * rng.standard_normal((n, Q))
        return x, y


def make_world() -> World:
    rng = np.random.default_rng(7)
    words = np.linalg.qr(rng.standard_normal((P, len(ADJECTIVES) + len(NOUNS))))[0].T
    source = unit(words[: len(ADJECTIVES), None] + words[None, len(ADJECTIVES) :])
    matrix = rng.standard_normal((Q, P)) / np.sqrt(P)
    mean_x, offset = 2.5 * unit(rng.standard_normal(P)), 4 * unit(rng.standard_normal(Q))
    seen = rng.random((len(ADJECTIVES), len(NOUNS))) > 0.25
    return World(source, unit(source @ matrix.T), matrix, mean_x, offset, seen)
