"""The three ways to ask (paper, section 3.4): a text, features by number, texts as examples.

text        q = sum over the features whose descriptions are nearest, weight 1 or the cosine
features    q = sum of w_i e_i
examples    q = mean of pooled feature activations of the positive texts, less the negative ones
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.activations.batches import plan_batches
from atlas_jax.activations.pool import PoolFunction, pool_max
from atlas_jax.atlas.description_index import DescriptionIndex
from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.sae import SAE
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar
from atlas_jax.query import Query

WEIGHTINGS = ("similarity", "one")
LEAST_SIMILARITY = 0.43
"""Cosine that the best description must reach, or the atlas knows nothing about a text.

On the atlas that ships, strings without meaning reach 0.29 to 0.42 with some description, and
themes that it knows 0.45 to 0.77.
"""
SHARE_OF_BEST = 0.7
"""A feature is left out of a text query where its cosine falls below this share of the best one."""
_MAX_TOKENS = 512
_BATCH_TOKENS = 1024


class Asked(Protocol):
    """What a query needs of an atlas."""

    sae: SAE
    name: str

    @property
    def tokenizer(self) -> Any: ...

    @property
    def feature_site(self) -> str: ...

    def search(self, text: str, top: int) -> list[tuple[int, float]]: ...

    def describe(self, feature: int) -> str: ...

    def check(self, features: Sequence[int]) -> None: ...

    def read(
        self, tokens: Any, mask: Any, sites: Any = None, pool: PoolFunction | None = None
    ) -> dict[str, Array]: ...


def nearest_text(
    index: DescriptionIndex, embedder: Embedder, text: str, top: int
) -> list[tuple[int, float]]:
    """The features whose descriptions lie nearest to a text, with their cosine, best first.

    None where the best cosine is below `LEAST_SIMILARITY`.
    """
    cosines = index.cosines(embedder.embed([text])[0])
    best = float(cosines.max())
    if best < LEAST_SIMILARITY:
        return []
    near = np.flatnonzero(cosines >= SHARE_OF_BEST * best)
    order = near[np.argsort(-cosines[near], kind="stable")][:top]
    return [(int(index.features[i]), float(cosines[i])) for i in order]


def from_text(atlas: Asked, text: str, top: int, weighting: str) -> Query:
    """The features whose descriptions are nearest.

    Raises:
        InputError: an empty text, or one that no description is near to.
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"Expected a weighting of 'similarity' or 'one', got '{weighting}'.")
    if top < 1:
        raise InputError(f"Expected at least one feature for a text, got top={top}.")
    text = " ".join(text.split())
    if not text:
        raise InputError("Expected words to search for, got an empty text.")
    found = atlas.search(text, top)
    if not found:
        raise InputError(
            f"No description of this atlas is near to '{text[:80]}' (all cosines below "
            f"{LEAST_SIMILARITY}): use other words, or name features by their numbers."
        )
    if weighting == "one":
        found = [(feature, 1.0) for feature, _ in found]
    return _query(atlas, found, text)


def from_features(atlas: Asked, features: Sequence[int], weights: Sequence[float] | None) -> Query:
    """Features by number, weighted; a repeated one has the sum of its weights.

    Raises:
        InputError: no feature, an unknown one, or another number of weights.
    """
    if not len(features):
        raise InputError("Expected at least one feature, got none.")
    atlas.check(features)
    weights = [1.0] * len(features) if weights is None else weights
    if len(weights) != len(features):
        raise InputError(
            f"Expected one weight for each of {len(features)} features, got {len(weights)}."
        )
    pairs = [(int(f), float(w)) for f, w in zip(features, weights, strict=True)]
    return _query(atlas, pairs, ", ".join(atlas.describe(f) for f, _ in pairs[:3]))


def from_examples(
    atlas: Asked, positive: Sequence[str], negative: Sequence[str], top: int
) -> Query:
    """What texts activate, less what others do; the `top` features are listed, all of them count.

    Raises:
        InputError: no text, an empty one, or one of a single token.
    """
    if isinstance(positive, str) or isinstance(negative, str):
        raise InputError("Expected lists of texts for positive and negative, got one text.")
    if not len(positive) or not all(t.strip() for t in (*positive, *negative)):
        raise InputError("Expected texts with words in positive and negative, got an empty one.")
    vector = _mean(atlas, positive)
    if len(negative):
        vector = vector - _mean(atlas, negative)
    order = np.argsort(-np.abs(vector), kind="stable")[:top]
    order = order[vector[order] != 0]
    return Query(
        jnp.asarray(vector),
        f"like '{positive[0][:40]}'",
        tuple(int(f) for f in order),
        tuple(float(vector[f]) for f in order),
        tuple(atlas.describe(int(f)) for f in order),
    )


def _mean(atlas: Asked, texts: Sequence[str]) -> Float[np.ndarray, " F"]:
    """Mean over texts of what `capture` would store of each."""
    rows = atlas.tokenizer.encode_batch(list(texts))
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) < 2:
            raise InputError(
                f"Expected texts of at least two tokens, the first is never read; got {text!r}."
            )
    rows = [ids[:_MAX_TOKENS] for ids in rows]
    total = np.zeros(atlas.sae.n_features, np.float64)
    with Bar("reading examples", len(rows)) as bar:
        for batch in plan_batches([len(ids) for ids in rows], _BATCH_TOKENS):
            ids = [rows[i] for i in batch.rows]
            filled = ids + [ids[0]] * (batch.size - len(ids))
            tokens, mask = atlas.tokenizer.pad(filled, batch.length)
            acts = np.asarray(atlas.read(tokens, mask, pool=pool_max)[atlas.feature_site])
            total += acts[: len(ids)].sum(0, dtype=np.float64)
            bar.advance(len(ids))
    return (total / len(texts)).astype(np.float32)


def _query(atlas: Asked, pairs: Sequence[tuple[int, float]], name: str) -> Query:
    vector = np.zeros(atlas.sae.n_features, np.float32)
    for feature, weight in pairs:
        vector[feature] += weight
    features, weights = zip(*pairs, strict=True)
    texts = tuple(atlas.describe(feature) for feature in features)
    return Query(jnp.asarray(vector), name, features, weights, texts)
