"""Descriptions by token and phrase statistics: no language model is asked, and no network.

What the active tokens of a feature have in common (see `token_statistics`) and what the texts
around them are about (see `topics`).
"""

from __future__ import annotations

from collections.abc import Iterable

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.examples import examples
from atlas_jax.atlas.describing.token_statistics import common_token, fallen_on, gist
from atlas_jax.atlas.describing.topics import distinctive_words, document_shares, name_topics
from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.labels import DEAD
from atlas_jax.progress import track


def by_statistics(
    activity: Activity,
    reader: ContextReader,
    embedder: Embedder | None = None,
    features: Iterable[int] | None = None,
) -> dict[int, list[str]]:
    """Puts features into words: what each falls on, and what the texts around are about.

    Args:
        activity: where features are active, from the first context on.
        reader: of the contexts.
        embedder: names topics; None leaves topics unnamed.
        features: which; default all.
    """
    wanted = range(len(activity.starts) - 1) if features is None else list(features)
    background = document_shares(reader, activity.n_rows // (reader.tokens.shape[1] - 1))
    cores: dict[int, str] = {}
    topics: dict[int, list[str]] = {}
    gists: dict[int, str] = {}
    lists: dict[int, list[str]] = {}
    for feature in track(wanted, "describing features"):
        found = examples(activity, reader, feature)
        if not found:
            continue
        cores[feature] = common_token(found)
        topics[feature] = distinctive_words(found, background)
        gists[feature] = ", ".join(gist(found))
        lists[feature] = fallen_on(found)
    names = name_topics(gists, embedder) if embedder else {}
    texts: dict[int, list[str]] = {}
    for feature in wanted:
        if feature not in cores:
            texts[feature] = [DEAD]
            continue
        core, words, name = cores[feature], topics[feature], names.get(feature)
        about = f"text about {', '.join(words[:4])}" if len(words) > 1 else ""
        if not core:
            core, about = about or "assorted words without a common theme", ""
        mine = [f"{name}: {core}" if name else core, about]
        if len(lists[feature]) > 2:
            mine.append(f"active on {', '.join(lists[feature])}")
        texts[feature] = [text for text in dict.fromkeys(mine) if text]
    return texts
