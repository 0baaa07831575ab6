"""The strongest activations of a feature, each with the words around it."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader

TOP_CONTEXTS = 30
_BEFORE, _AFTER = 14, 5
_LONGEST = 24


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
