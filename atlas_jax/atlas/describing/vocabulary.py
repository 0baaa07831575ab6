"""Descriptions by the embedding-nearest phrase of a vocabulary.

    phrase = argmax_p cos(e(p) - mean_q e(q), mean_w e(w) - mean_v e(v))

e embeds a text; p, q are the words and pairs of words that the contexts use most; w are excerpts
around the feature's strongest tokens, v around random ones. Without the means, phrases that are
near to any text would win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.windows import Excerpts, peaks
from atlas_jax.atlas.describing.word_lists import STOPWORDS
from atlas_jax.atlas.embed import Embedder
from atlas_jax.progress import track

_CONTEXTS = 8000
_PHRASES = 8000
_FEWEST = 4
_EXCERPTS, _BACKGROUND = 8, 1000


def phrases(reader: ContextReader, contexts: int, count: int = _PHRASES) -> list[str]:
    """The content words and pairs of neighbouring ones that most contexts use, the top first."""
    used: Counter[str] = Counter()
    for index in track(range(min(contexts, _CONTEXTS)), "gathering phrases"):
        words = [word.lower() for word in reader[index].words]
        content = [len(w) > 2 and w[0].isalpha() and w not in STOPWORDS for w in words]
        found = {word for word, good in zip(words, content, strict=True) if good}
        for i in range(len(words) - 1):
            if content[i] and content[i + 1]:
                found.add(f"{words[i]} {words[i + 1]}")
        used.update(found)
    return [phrase for phrase, n in used.most_common(count) if n >= _FEWEST]


def by_vocabulary(
    activity: Activity,
    reader: ContextReader,
    embedder: Embedder,
    features: Iterable[int] | None = None,
    seed: int = 0,
) -> dict[int, list[str]]:
    """The nearest phrase of each feature that is active.

    Args:
        activity: where features are active, from the first context on.
        reader: of the contexts.
        embedder: of phrases and excerpts.
        features: which; default all.
        seed: of the random excerpts.
    """
    length = reader.tokens.shape[1]
    wanted = range(len(activity.starts) - 1) if features is None else features
    tops = {feature: peaks(activity, feature, length, _EXCERPTS) for feature in wanted}
    tops = {feature: rows for feature, rows in tops.items() if len(rows)}
    known = phrases(reader, activity.n_rows // (length - 1))
    if not tops or not known:
        return {}
    random = np.random.default_rng(seed).integers(0, activity.n_rows, _BACKGROUND)
    excerpts = Excerpts.of(reader, np.concatenate([*tops.values(), random]), embedder)
    vectors = centred(embedder.embed(known), None)
    background = excerpts[random].mean(0)
    means = np.stack([excerpts[rows].mean(0) for rows in tops.values()])
    nearest = (centred(means, background) @ vectors.T).argmax(1)
    return {feature: [known[i]] for feature, i in zip(tops, nearest, strict=True)}


def centred(
    vectors: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"] | None
) -> Float[np.ndarray, "n d"]:
    """Less the mean (default: their own), then of length one."""
    moved = vectors - (vectors.mean(0) if mean is None else mean)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
