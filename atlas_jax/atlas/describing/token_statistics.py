"""What the active tokens of a feature have in common, put into words by fixed rules.

A word, a class of words, a sign, an ending, the word before or after them, or a phrase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from atlas_jax.atlas.describing.examples import Example
from atlas_jax.atlas.describing.word_lists import CLASSES, PREFIXES, SIGNS, STOPWORDS, SUFFIXES


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


def fallen_on(found: Sequence[Example]) -> list[str]:
    """Up to ten content words that a feature is active on, heaviest first, one of each stem."""
    stems: dict[str, str] = {}
    for word in _tokens(found):
        if word[0].isalpha() and len(word) > 2 and word.lower() not in STOPWORDS:
            stems.setdefault(word.lower().removesuffix("s")[:6], word)
    return list(stems.values())[:10]


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
