"""How well a description detects its feature, without a simulator.

    score = P(cos(e(label), e(w+)) > cos(e(label), e(w-))), ties counted half

e embeds a text, w+ are excerpts around the feature's strongest tokens in contexts that no
description was made from, w- are excerpts around random tokens of contexts in which the feature is
silent. This is an AUROC: 0.5 says no more than chance. A sentence embedder hears themes and words
better than punctuation or position, so a low score may also be the judge's; a high one is earned.
Detection as a score is from Paulo et al. 2024, there with a language model as judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.description import Description
from atlas_jax.atlas.describing.windows import Excerpts, peaks
from atlas_jax.atlas.embed import Embedder

POSITIVES, NEGATIVES = 10, 400
_FEWEST = 4


def detection_scores(
    descriptions: Sequence[Description],
    heldout: Activity,
    contexts: range,
    reader: ContextReader,
    embedder: Embedder,
    seed: int = 0,
) -> list[Description]:
    """The descriptions with their scores; None where a feature has under 4 held-out contexts.

    Args:
        descriptions: of any features.
        heldout: where features are active on contexts that the descriptions were not made from.
        contexts: which contexts those are.
        reader: of all contexts.
        embedder: the judge.
        seed: of the random excerpts.
    """
    length = reader.tokens.shape[1]
    features = sorted({d.feature for d in descriptions})
    tops = {f: peaks(heldout, f, length, POSITIVES) for f in features}
    tops = {f: rows for f, rows in tops.items() if len(rows) >= _FEWEST}
    if not tops:
        return [replace(d, score=None) for d in descriptions]
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(contexts))[:NEGATIVES]) + contexts.start
    others = chosen * (length - 1) + random.integers(0, length - 1, len(chosen))
    excerpts = Excerpts.of(reader, np.concatenate([*tops.values(), others]), embedder)
    texts = sorted({d.description for d in descriptions if d.feature in tops})
    labels = dict(zip(texts, embedder.embed(texts), strict=True))
    silent = {}
    for feature, rows in tops.items():
        active = np.unique(heldout.of(feature)[0] // (length - 1))
        silent[feature] = ~np.isin(chosen, active), rows
    scored = []
    for d in descriptions:
        score = None
        if d.feature in tops:
            quiet, rows = silent[d.feature]
            if quiet.sum() >= _FEWEST:
                label = labels[d.description]
                score = auroc(excerpts[rows] @ label, excerpts[others[quiet]] @ label)
        scored.append(replace(d, score=None if score is None else round(score, 4)))
    return scored


def auroc(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> float:
    """P(positive > negative), ties counted half."""
    difference = positive[:, None] - negative[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))
