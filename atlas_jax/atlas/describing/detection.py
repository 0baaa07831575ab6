"""How well a description detects its feature, without a simulator.

    score = P(cos(e(label), e(w+)) > cos(e(label), e(w-))), ties counted half

e embeds a text, w+ are excerpts around the feature's strongest tokens in contexts that no
description was made from, w- are excerpts around random tokens of contexts in which the feature is
silent. This is an AUROC: 0.5 says no more than chance. A sentence embedder hears themes and words
better than punctuation or position, so a low score may also be the judge's; a high one is earned.
Detection as a score is from Paulo et al. 2024, there with a language model as judge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.windows import Excerpts, peaks
from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.labels import DEAD, Labels

POSITIVES, NEGATIVES = 10, 400
_FEWEST = 4


def detection_scores(
    labels: Labels,
    heldout: Activity,
    contexts: range,
    reader: ContextReader,
    embedder: Embedder,
    seed: int = 0,
) -> Labels:
    """The labels with their scores; None where a feature has under 4 held-out contexts.

    Args:
        labels: of any features.
        heldout: where features are active on contexts that the labels were not made from.
        contexts: which contexts those are.
        reader: of all contexts.
        embedder: the judge.
        seed: of the random excerpts.
    """
    length = reader.tokens.shape[1]
    living = sorted({f for f, label in labels.pairs() if label.text != DEAD})
    tops = {f: peaks(heldout, f, length, POSITIVES) for f in living}
    tops = {f: rows for f, rows in tops.items() if len(rows) >= _FEWEST}
    if not tops:
        return Labels.of((f, replace(label, score=None)) for f, label in labels.pairs())
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(contexts))[:NEGATIVES]) + contexts.start
    others = chosen * (length - 1) + random.integers(0, length - 1, len(chosen))
    excerpts = Excerpts.of(reader, np.concatenate([*tops.values(), others]), embedder)
    texts = sorted({text for f in tops for text in labels[f]})
    vectors = dict(zip(texts, embedder.embed(texts), strict=True))
    silent = {f: ~np.isin(chosen, heldout.of(f)[0] // (length - 1)) for f in tops}

    def score(feature: int, text: str) -> float | None:
        if feature not in tops or silent[feature].sum() < _FEWEST:
            return None
        positive, negative = excerpts[tops[feature]], excerpts[others[silent[feature]]]
        return round(auroc(positive @ vectors[text], negative @ vectors[text]), 4)

    return Labels.of((f, replace(label, score=score(f, label.text))) for f, label in labels.pairs())


def auroc(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> float:
    """P(positive > negative), ties counted half."""
    difference = positive[:, None] - negative[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))
