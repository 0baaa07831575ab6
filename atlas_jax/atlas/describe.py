"""Descriptions of features from the texts that activate them most; no language model is asked.

For each feature the strongest activation in each of its best contexts is gathered. What the active
tokens have in common (a word, a class of words, a sign, an ending, the word before them) and what
the texts around them are about (words far more frequent there than elsewhere,
p log(p / p_background)) are put into words by fixed rules. A sentence embedder names the topic.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.examples import Activity, ContextReader, find_activity
from atlas_jax.atlas.formats.saelens import load_saelens
from atlas_jax.atlas.labels import DEAD, Labels
from atlas_jax.atlas.sinks import norm_limit
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.atlas.word_lists import CLASSES, PREFIXES, SIGNS, STOPWORDS, SUFFIXES, TOPICS
from atlas_jax.models.language_model import LanguageModel
from atlas_jax.progress import track

TOP_CONTEXTS = 30
_BEFORE, _AFTER = 14, 5
_TOPIC_COSINE, _TOPIC_COSINE_OF_ONE_WORD, _WORD_COSINE = 0.46, 0.65, 0.36
_LONGEST = 24
_BACKGROUND_CONTEXTS = 8000


@dataclass(frozen=True)
class Example:
    """One strong activation.

    Attributes:
        token: the word it falls on, or the sign.
        is_word: whether it falls on a word or number.
        before: the word before.
        after: the word after.
        around: the other words near it, lower case.
        weight: activation.
    """

    token: str
    is_word: bool
    before: str
    after: str
    around: frozenset[str]
    weight: float


def label_atlas(
    folder: str | os.PathLike[str],
    acts: TokenActivations,
    model: LanguageModel,
    embedder: Embedder | None = None,
    contexts: int | None = None,
) -> Labels:
    """Describes every feature of a saved atlas and writes `labels.jsonl` into its folder.

    Args:
        folder: a SAELens folder.
        acts: recorded activations of the site, best those it was trained on.
        model: whose tokenizer reads the tokens.
        embedder: names topics; None leaves topics unnamed.
        contexts: how many contexts to look at; default all.
    """
    loaded = load_saelens(folder)
    limit = loaded.max_norm or norm_limit(acts.acts)
    activity = find_activity(loaded.sae, acts, limit, contexts)
    reader = ContextReader(vocabulary(model), acts.tokens)
    labels = describe_features(activity, reader, embedder)
    labels.save(Path(folder) / "labels.jsonl")
    return labels


def vocabulary(model: LanguageModel) -> list[str]:
    """Text of every token id; special tokens are empty."""
    pieces = model.tokenizer.tokens(np.arange(model.arch.vocab_size))
    for index in (model.tokenizer.bos_id, model.tokenizer.eos_id, model.tokenizer.pad_id):
        if index is not None:
            pieces[index] = ""
    return pieces


def describe_features(
    activity: Activity, reader: ContextReader, embedder: Embedder | None = None
) -> Labels:
    """Puts every feature into words: what it falls on, and what the texts around are about."""
    n_features = len(activity.starts) - 1
    background = document_shares(reader, activity.n_rows // (reader.tokens.shape[1] - 1))
    cores: dict[int, str] = {}
    topics: dict[int, list[str]] = {}
    gists: dict[int, str] = {}
    lists: dict[int, list[str]] = {}
    for feature in track(range(n_features), "describing features"):
        found = examples(activity, reader, feature)
        if not found:
            continue
        words = distinctive_words(found, background)
        cores[feature] = common_token(found)
        topics[feature] = words
        gists[feature] = ", ".join(gist(found))
        lists[feature] = fallen_on(found)
    names = name_topics(gists, embedder) if embedder else {}
    pairs: list[tuple[int, str]] = []
    for feature in range(n_features):
        if feature not in cores:
            pairs.append((feature, DEAD))
            continue
        core, words, name = cores[feature], topics[feature], names.get(feature)
        about = f"text about {', '.join(words[:4])}" if len(words) > 1 else ""
        if not core:
            core, about = about or "assorted words without a common theme", ""
        pairs.append((feature, f"{name}: {core}" if name else core))
        if about:
            pairs.append((feature, about))
        if len(lists[feature]) > 2:
            pairs.append((feature, f"active on {', '.join(lists[feature])}"))
    return Labels.of(pairs)


def fallen_on(found: Sequence[Example]) -> list[str]:
    """Up to ten content words that a feature is active on, heaviest first, one of each stem."""
    stems: dict[str, str] = {}
    for word in _tokens(found):
        if word[0].isalpha() and len(word) > 2 and word.lower() not in STOPWORDS:
            stems.setdefault(word.lower().removesuffix("s")[:6], word)
    return list(stems.values())[:10]


def examples(activity: Activity, reader: ContextReader, feature: int) -> list[Example]:
    """The strongest activation in each of a feature's best contexts."""
    rows, values = activity.of(feature)
    length = reader.tokens.shape[1]
    found: list[Example] = []
    seen: set[int] = set()
    for row, value in zip(rows, values, strict=True):
        context, place = divmod(int(row), length - 1)
        if context in seen:
            continue
        if len(found) == TOP_CONTEXTS or value < 0.25 * values[0]:
            break
        seen.add(context)
        text, token = reader[context], place + 1
        word = text.word_of[token]
        before = text.before[token]
        after = (word if word >= 0 else before) + 1
        centre = max(word, before, 0)
        near = text.words[max(0, centre - _BEFORE) : centre + _AFTER + 1]
        name = text.words[word] if word >= 0 else text.pieces[token]
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        found.append(
            Example(
                name,
                word >= 0,
                text.words[before] if before >= 0 else "",
                text.words[after] if after < len(text.words) else "",
                frozenset(w.lower() for w in near) - {name.lower()},
                float(value),
            )
        )
    return found


def gist(found: Sequence[Example]) -> list[str]:
    """Active content words, most weight first; none on signs or function words."""
    tokens = _tokens(found)
    active = [
        word
        for word in list(tokens)[:6]
        if word.lower() not in STOPWORDS and word[0].isalpha() and len(word) > 2
    ]
    carried = sum(tokens[word] for word in active)
    if carried < 0.35 * sum(example.weight for example in found):
        return []
    return [word.lower() for word in active[:4]]


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


def _tokens(found: Iterable[Example]) -> dict[str, float]:
    """Weight of each active word in its most usual spelling, heaviest first."""
    weights: dict[str, float] = {}
    spellings: dict[str, Counter[str]] = {}
    for example in found:
        if example.is_word:
            key = example.token.lower()
            weights[key] = weights.get(key, 0.0) + example.weight
            spellings.setdefault(key, Counter())[example.token] += 1
    ranked = sorted(weights, key=lambda word: -weights[word])
    return {spellings[word].most_common(1)[0][0]: weights[word] for word in ranked}


def common_token(found: Sequence[Example]) -> str:
    """What the active tokens have in common, in words; empty where they have nothing in common."""
    total = sum(example.weight for example in found)
    words = _tokens(found)
    share = {word: weight / total for word, weight in words.items()}
    counts = Counter(example.token.lower() for example in found)
    ranked = [w for w in share if counts[w.lower()] > 1] or list(share)
    ranked = ranked if len(ranked) > 2 else list(share)
    on_words = sum(share.values())
    if on_words < 0.5:
        return _sign([e for e in found if not e.is_word])
    top = ranked[0]
    if share[top] >= 0.55:
        return _single(top, found)
    for name, members in CLASSES.items():
        mine = [word for word in ranked if word.lower() in members]
        if sum(share[word] for word in mine) >= 0.7 and len(mine) > 1:
            return f"{name}: {', '.join(mine[:5])}"
    numbers = [word for word in ranked if word[0].isdigit()]
    if sum(share[word] for word in numbers) >= 0.6:
        years = [w for w in numbers if len(w) == 4 and w.isdigit() and w[0] in "12"]
        kind = "years" if len(years) > 0.7 * len(numbers) else "numbers"
        if kind == "years" and len({w[:3] for w in years}) == 1:
            return f"years in the {years[0][:3]}0s: {', '.join(sorted(years)[:4])}"
        return f"{kind}: {', '.join(numbers[:5])}"
    before = _dominant(found, "before")
    if before and before.lower() not in ("the", "a", "of", "and"):
        return f'the word after "{before}": {", ".join(ranked[:4])}'
    shape = _shape(share)
    if shape:
        return shape
    listed = ", ".join(ranked[:5])
    capital = [w for w in ranked if w[0].isupper()]
    if len(capital) > 2 and sum(share[w] for w in capital) >= 0.75:
        short = sum(share[w] for w in capital if w.isupper() and len(w) < 6)
        return f"{'abbreviations' if short >= 0.5 else 'names'}: {listed}"
    if sum(list(share.values())[:6]) >= 0.5:
        return f"words such as {listed}"
    after = _dominant(found, "after")
    if after:
        return f'just before the word "{after}": {", ".join(ranked[:4])}'
    content = [word for word in ranked if word.lower() not in STOPWORDS]
    if len(ranked) - len(content) >= 0.6 * len(ranked):
        return ""
    return f"words such as {', '.join(content[:5])}"


def _dominant(found: Sequence[Example], side: str) -> str:
    """The neighbour that at least 55 % of the examples share, if any."""
    neighbours = Counter(getattr(example, side) for example in found)
    word, count = neighbours.most_common(1)[0]
    return word if word and count >= max(3, 0.55 * len(found)) else ""


def _single(word: str, found: Sequence[Example]) -> str:
    """One word, with the company it keeps."""
    mine = [e for e in found if e.token.lower() == word.lower()]
    before = Counter(e.before for e in mine if e.before)
    after = Counter(e.after for e in mine if e.after)
    count = max(3, round(0.55 * len(mine)))
    phrase = word
    if before and before.most_common(1)[0][1] >= count:
        phrase = f"{before.most_common(1)[0][0]} {phrase}"
    if after and after.most_common(1)[0][1] >= count:
        phrase = f"{phrase} {after.most_common(1)[0][0]}"
    if phrase != word:
        return f'"{word}" in "{phrase}"'
    if word.lower() not in STOPWORDS:
        return f'the word "{word}"'
    pairs = [f'"{b} {word}"' for b, n in before.most_common(3) if n > 1]
    pairs = pairs or [f'"{word} {a}"' for a, n in after.most_common(3) if n > 1]
    if pairs:
        return f'"{word}" (as in {", ".join(pairs)})'
    return f'the word "{word}"'


def _sign(found: Sequence[Example]) -> str:
    """A punctuation mark or a line break, with the words it follows."""
    kinds: Counter[str] = Counter()
    for example in found:
        text = example.token.strip()
        kinds[text or ("\n" if "\n" in example.token else " ")] += 1
    sign, count = kinds.most_common(1)[0]
    words = Counter(e.before for e in found if e.before)
    after = ", ".join(f'"{w}"' for w, _ in words.most_common(3))
    if count < 0.5 * len(found):
        return f"punctuation after words such as {after}" if after else "punctuation"
    if sign == "\n":
        name = "a line break"
    elif sign == " ":
        name = "a space"
    else:
        name = SIGNS.get(sign, f"the sign {sign[:8]}")
    if not words or words.most_common(1)[0][1] == 1:
        numbers = sum(e.before[:1].isdigit() for e in found)
        capitals = sum(e.before[:1].isupper() for e in found)
        if numbers > 0.6 * len(found):
            return f"{name} after a number (e.g. {after})"
        if capitals > 0.6 * len(found):
            return f"{name} after a name (e.g. {after})"
    return f"{name} after {after}" if after else name


def _shape(share: dict[str, float]) -> str:
    """A stem, prefix or suffix that at least four different words have in common."""
    words = [word for word in share if word[0].isalpha() and len(word) > 3]
    if len(words) < 4:
        return ""
    weight = sum(share.values())
    listed = ", ".join(words[:4])
    stems: dict[str, float] = {}
    for word in words:
        stems[word.lower()[:4]] = stems.get(word.lower()[:4], 0.0) + share[word]
    stem = max(stems, key=lambda s: stems[s])
    mass = stems[stem]
    family = [w for w in words if w.lower().startswith(stem)]
    if mass >= 0.6 * weight and len(family) > 1:
        while all(w.lower().startswith(family[0].lower()[: len(stem) + 1]) for w in family):
            if len(stem) == len(family[0]):
                break
            stem = family[0].lower()[: len(stem) + 1]
        return f'words that begin with "{stem}": {", ".join(family[:4])}'
    for suffix in SUFFIXES:
        if sum(share[w] for w in words if w.lower().endswith(suffix)) >= 0.75 * weight:
            return f'words that end in "-{suffix}": {listed}'
    for prefix in PREFIXES:
        if sum(share[w] for w in words if w.lower().startswith(prefix)) >= 0.75 * weight:
            return f'words that begin with "{prefix}-": {listed}'
    return ""


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
