"""Identification: the subject features that carry a concept, and the texts that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.translate.translation import Translation, Vector


class Texts(Protocol):
    """The texts of a store's rows, with their hash."""

    @property
    def hash(self) -> str: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Sample:
    """A text that activates a feature."""

    row: int
    text: str
    activation: float


@dataclass(frozen=True)
class Hit:
    """A subject feature found by a query.

    Attributes:
        site: where the feature is.
        feature: its index.
        score: eq. 3.
        concepts: (atlas feature, entry of the unit row), the largest first.
        samples: the texts that activate it most, the strongest first.
    """

    site: str
    feature: int
    score: float
    concepts: list[tuple[int, float]]
    samples: list[Sample]


def identify(
    translation: Translation,
    query: Vector | np.ndarray,
    store: Any,
    texts: Texts,
    k: int = 5,
    samples: int = 10,
) -> list[Hit]:
    """The k subject features that score highest on a query, with their max-activating texts.

    Args:
        translation: from the subject's site to the atlas.
        query: (d_c,) or a `Query`.
        store: the subject's activations: a store that has the translation's site, or that site.
        texts: the texts that `store` was captured on (a corpus's `train` or `eval`).
        k: number of features.
        samples: texts of each.

    Raises:
        InputError: a store of other texts or another site, or k out of range.
    """
    hits = rank_features(translation, query, k)
    site = translation.meta["subject"]["site"]
    rows = store[site] if hasattr(store, "sites") else store
    if rows.meta.get("texts") != texts.hash or rows.shape[0] != len(texts):
        raise InputError(
            f"Expected the {rows.shape[0]} texts that the store was captured on, got "
            f"{len(texts)} texts of another corpus."
        )
    top = rows.top_samples(samples)  # of every feature: found in one pass, then kept by the store
    found = []
    for feature, score in hits:
        pairs = zip(top.rows[:, feature], top.values[:, feature], strict=True)
        shown = [Sample(int(i), str(texts[int(i)]), float(value)) for i, value in pairs]
        found.append(Hit(site, feature, score, translation.top_concepts(feature), shown))
    return found


def rank_features(
    translation: Translation, query: Vector | np.ndarray, k: int
) -> Sequence[tuple[int, float]]:
    """The k features of highest score; the lower index first among equals."""
    width = len(translation.matrix)
    if not 1 <= k <= width:
        raise InputError(f"Expected k from 1 to {width}, got {k}.")
    scores = translation.scores(query)
    return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]
