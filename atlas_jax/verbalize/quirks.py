"""Whether a washout takes quirks away and leaves the meaning: Q1 to Q7.

Q1 quirk rate, Q2 genericness and Q3 leakage should fall and Q4 stability rise, with Q5 semantics
(double-centred lift, retrieval; see `lift`) and Q6 nuance not lower. A fall of Q6 with a rise of Q4
is nuance lost.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from atlas_jax.errors import InputError
from atlas_jax.verbalize.said import Said, embed_said
from atlas_jax.verbalize.verbalizer import Explanation, Verbalizer

_GRAM = 3


def quirk_rates(explanations: Sequence[Explanation]) -> dict[str, float]:
    """Q1: shares of CJK letters, of texts without both tags, of empty texts and of words that
    repeat three words said before."""
    texts = [e.text for e in explanations]
    letters = [c for text in texts for c in text if c.isalpha()]
    cjk = sum(unicodedata.name(c, "").startswith(("CJK", "HIRAGANA", "KATAKANA")) for c in letters)
    return {
        "cjk": cjk / max(len(letters), 1),
        "untagged": float(np.mean([not e.complete for e in explanations])),
        "empty": float(np.mean([not text for text in texts])),
        "repeated": float(np.mean([_repeated(text.split()) for text in texts])),
    }


def genericness(foreign: Float[np.ndarray, "n e"]) -> float:
    """Q2: mean cosine of the explanations of different features."""
    n = len(foreign)
    rows = foreign.astype(np.float64)
    return float(((rows @ rows.T).sum() - (rows**2).sum()) / (n * (n - 1)))


def leakage(foreign: Float[np.ndarray, "n e"], background: Float[np.ndarray, " e"]) -> float:
    """Q3: mean cosine with the explanation of the background itself."""
    return float((foreign.astype(np.float64) @ background.astype(np.float64)).mean())


def stability(samples: Float[np.ndarray, "s n e"]) -> float:
    """Q4: mean cosine of different samples of one feature; NaN for one sample."""
    s = len(samples)
    if s < 2:
        return float("nan")
    rows = samples.astype(np.float64)
    inner = np.einsum("ane,bne->ab", rows, rows) / rows.shape[1]
    return float((inner.sum() - np.trace(inner)) / (s * (s - 1)))


def nuance(
    s: Float[np.ndarray, "n n"], directions: Float[np.ndarray, "n p"], least: float = 0.6
) -> Float64[np.ndarray, " m"]:
    """Q6: between a feature and its nearest neighbour (cosine at least 0.6), whether its foreign
    text is nearer to its own native text; 1, 0, or 1/2 for a tie. Features without one are left
    out."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    inner = unit @ unit.T
    np.fill_diagonal(inner, -np.inf)
    other = inner.argmax(axis=1)
    kept = np.flatnonzero(inner[np.arange(len(other)), other] >= least)
    difference = s[kept, kept] - s[kept, other[kept]]
    return (np.sign(difference) + 1) / 2


def round_trip(
    rebuilt: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n d"],
    background: Float[np.ndarray, " d"],
) -> Float64[np.ndarray, " n"]:
    """Q7: cos(P r, P u) of what a reconstructor makes of the text and of the direction, the
    background taken out of both: P = I - b^ b^'."""
    base = background / np.linalg.norm(background)
    a, b = (rows - np.outer(rows @ base, base) for rows in (rebuilt, directions))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)


def not_lower(
    washed: Float[np.ndarray, " n"],
    plain: Float[np.ndarray, " n"],
    margin: float,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, bool]:
    """The one-sided lower bound of the mean paired difference, and whether it is above -margin.

    The margin is to be stated before anything is measured.

    Raises:
        InputError: a negative margin.
    """
    if margin < 0:
        raise InputError(f"Expected a margin of at least 0, got {margin}.")
    difference = washed - plain
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(len(difference), size=(draws, len(difference)))].mean(axis=1)
    low = float(np.quantile(means, 1 - level))
    return low, low > -margin


def quirk_figures(
    foreign: Verbalizer,
    said: Said,
    embedded: Float[np.ndarray, "s n e"],
    similarities: Float[np.ndarray, "n n"],
    directions: Float[np.ndarray, "n p"],
    embedder: Any,
) -> dict[str, Any]:
    """Q1 to Q4 and Q6 of what a verbalizer said.

    Args:
        foreign: the verbalizer.
        said: by it, of each direction.
        embedded: the same.
        similarities: s_ij with the native explanations.
        directions: of the source.
        embedder: texts to unit vectors.
    """
    found: dict[str, Any] = quirk_rates([e for row in said for e in row])
    found["genericness"] = genericness(embedded[0])
    found["stability"] = stability(embedded)
    pairs = nuance(similarities, directions)
    found["nuance"] = float(pairs.mean()) if len(pairs) else None
    found["nuance_pairs"] = len(pairs)
    if foreign.background is not None:
        base = foreign.explain_all(foreign.background.direction[None])
        found["leakage"] = leakage(embedded[0], embed_said(embedder, base)[0, 0])
    return found


def _repeated(words: Sequence[str]) -> float:
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(Counter(grams)) / len(grams) if grams else 0.0
