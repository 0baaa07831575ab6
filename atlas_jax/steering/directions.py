"""Directions to steer by that need no translation: decoder rows, examples, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_jax.activations.batches import plan_batches
from atlas_jax.activations.pool import POOLS
from atlas_jax.errors import InputError
from atlas_jax.models.language_model import LanguageModel
from atlas_jax.progress import Bar

_BATCH_TOKENS = 2048
_MAX_TOKENS = 512


def decoder_direction(
    sae: Any, features: Sequence[int], weights: Sequence[float] | None = None
) -> Float[np.ndarray, " d"]:
    """What an autoencoder's features write: s = sum of w_i W_dec[i].

    For a subject that has an autoencoder of its own, or to steer the atlas's model itself.

    Args:
        sae: an `SAE`, or an `Atlas` (its own).
        features: their numbers.
        weights: of those features; default 1 each.

    Raises:
        InputError: no feature, an unknown one, or another number of weights.
    """
    decoder = getattr(sae, "sae", sae).W_dec
    chosen = np.asarray(list(features), np.int64)
    factors = np.ones(len(chosen)) if weights is None else np.asarray(weights, np.float64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= decoder.shape[0]:
        raise InputError(f"Expected features from 0 to {decoder.shape[0] - 1}, got {features}.")
    if factors.shape != chosen.shape:
        raise InputError(f"Expected {len(chosen)} weights, one a feature, got {len(factors)}.")
    rows = np.asarray(decoder[chosen], np.float64)
    return (factors @ rows).astype(np.float32)


def difference_of_means(
    model: LanguageModel,
    positive: Sequence[str],
    negative: Sequence[str],
    sites: Sequence[str],
    pool: str = "last",
) -> dict[str, Float[np.ndarray, " d"]]:
    """The steering vector of contrasted examples: mean activation of one side less the other's.

    s = mean of pool(a(x)) over positive x - the same over negative x, at each site

    The baseline that needs labelled texts (Rimsky et al. 2024, contrastive activation addition; the
    default of the steering-vectors package). Pairs are two lists in one order; the mean of the
    pairs' differences is this difference of means. Longer texts are cut to 512 tokens.

    Args:
        model: the subject.
        positive: texts that have the concept.
        negative: texts that lack it.
        sites: where to read.
        pool: over the tokens of a text: `last`, `mean`, `max` or `absmax`; never the first token.

    Raises:
        InputError: an unknown pooling or site, no text, or one of a single token.
    """
    if pool not in POOLS:
        raise InputError(f"Expected a pooling among {', '.join(POOLS)}, got '{pool}'.")
    if not len(positive) or not len(negative):
        raise InputError("Expected texts on both sides, positive and negative, got none on one.")
    texts = [*positive, *negative]
    rows = [ids[:_MAX_TOKENS] for ids in model.tokenizer.encode_batch(texts)]
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) < 2:
            raise InputError(f"Expected texts of at least two tokens, got {text!r}.")
    signs = np.repeat([1 / len(positive), -1 / len(negative)], [len(positive), len(negative)])
    totals = {site: np.zeros(model.width(site), np.float64) for site in sites}
    with Bar("reading examples", len(rows)) as bar:
        for batch in plan_batches([len(ids) for ids in rows], _BATCH_TOKENS):
            ids = [rows[i] for i in batch.rows]
            filled = ids + [ids[0]] * (batch.size - len(ids))
            tokens, mask = model.tokenizer.pad(filled, batch.length)
            acts = model.read(tokens, mask, sites, POOLS[pool])
            for site, total in totals.items():
                total += signs[batch.rows] @ np.asarray(acts[site], np.float64)[: len(ids)]
            bar.advance(len(ids))
    return {site: total.astype(np.float32) for site, total in totals.items()}


def random_scores(
    width: int, norm: float, seed: int | Sequence[int] = 0
) -> Float[np.ndarray, " d"]:
    """A Gaussian direction of a given norm: the baseline of steering."""
    vector = np.random.default_rng(seed).standard_normal(width)
    return (vector * (norm / np.linalg.norm(vector))).astype(np.float32)
