"""What the texts around a feature's active tokens are about.

Words that are far more frequent there than elsewhere, by p log(p / p_background), and the nearest
of a list of topics, by a sentence embedder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.examples import Example
from atlas_jax.atlas.describing.word_lists import STOPWORDS, TOPICS
from atlas_jax.atlas.embed import Embedder
from atlas_jax.progress import track

_TOPIC_COSINE, _TOPIC_COSINE_OF_ONE_WORD, _WORD_COSINE = 0.46, 0.65, 0.36
_BACKGROUND_CONTEXTS = 8000


def document_shares(reader: ContextReader, contexts: int) -> dict[str, float]:
    """Share of contexts that contain each word, for the first 8,000 of them."""
    count = min(contexts, _BACKGROUND_CONTEXTS, len(reader.tokens))
    totals: Counter[str] = Counter()
    for i in track(range(count), "counting words"):
        totals.update({word.lower() for word in reader[i].words})
    return {word: total / count for word, total in totals.items()}


def distinctive_words(found: Sequence[Example], background: dict[str, float]) -> list[str]:
    """Content words in at least a fifth of the examples, by p log(p / p_background)."""
    counts = Counter(word for example in found for word in example.around)
    floor = 1e-4
    scored = []
    for word, count in counts.items():
        p = count / len(found)
        if count < max(2, 0.2 * len(found)) or len(word) < 3 or word in STOPWORDS:
            continue
        if word[0].isdigit():
            continue
        score = p * math.log(p / max(background.get(word, 0.0), floor))
        if p > 6 * background.get(word, 0.0):
            scored.append((score, word))
    return [word for _, word in sorted(scored, reverse=True)[:6]]


def name_topics(gists: dict[int, str], embedder: Embedder) -> dict[int, str]:
    """The nearest of a list of topics, for each feature that is near enough to one.

    The words together must be near the topic, and so must each of them, on average: a stray match
    of one word names nothing.
    """
    named = {feature: gist for feature, gist in gists.items() if gist}
    if not named:
        return {}
    topics = embedder.embed(TOPICS).T
    words = sorted({word for gist in named.values() for word in gist.split(", ")})
    place = {word: i for i, word in enumerate(words)}
    alone = embedder.embed(words) @ topics
    together = embedder.embed(list(named.values())) @ topics
    found = {}
    for row, (feature, gist) in enumerate(named.items()):
        mine = [place[word] for word in gist.split(", ")]
        best = int(together[row].argmax())
        least = _TOPIC_COSINE if len(mine) > 1 else _TOPIC_COSINE_OF_ONE_WORD
        if together[row, best] >= least and alone[mine, best].mean() >= _WORD_COSINE:
            found[feature] = TOPICS[best]
    return found
