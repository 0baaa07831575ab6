"""What a verbalizer in training is to say: the words that set a text apart, up to a token.

    score(w) = log(N / n_w) sum_i 2^(-distance_i / half)

N texts, n_w of them with the word w, which stands `distance_i` words before the end. A state of a
causal model is a function of the text before it, and knows the near part best.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atlas_jax.errors import InputError

_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class WordTable:
    """How many texts use each word.

    Attributes:
        texts: how many there are.
        counts: of each word, in lower case.
        least: texts that must use a word for it to be said: a verbalizer cannot learn others.
        most: share of the texts that may use it: others set nothing apart.
    """

    texts: int
    counts: dict[str, int]
    least: int = 4
    most: float = 0.05

    @classmethod
    def of(cls, texts: Iterable[str], least: int = 4, most: float = 0.05) -> WordTable:
        """Counts the words of some texts.

        Raises:
            InputError: no word is used by enough texts, and not by too many.
        """
        counts: Counter[str] = Counter()
        number = 0
        for text in texts:
            counts.update(set(words_of(text)))
            number += 1
        found = cls(number, dict(counts), least, most)
        if not any(found.weight(word) for word in counts):
            raise InputError(
                f"Expected words that at least {least} texts use and at most {most:.0%} of them, "
                f"found none in {number} texts: give more texts."
            )
        return found

    def weight(self, word: str) -> float:
        """log(N / n_w); 0 for words that are not said."""
        count = self.counts.get(word, 0)
        if count < self.least or count > max(self.most * self.texts, self.least):
            return 0.0
        return math.log(self.texts / count)

    def characteristic(
        self, texts: str | Sequence[str], count: int = 5, half: float = 24.0
    ) -> list[str]:
        """The words of largest score, the first one the largest.

        Args:
            texts: one; or several, whose scores are added, such as those of one topic.
            count: words, at most.
            half: distance in words at which an occurrence counts half.
        """
        scores: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            words = words_of(text)
            for i, word in enumerate(words):
                scores[word] += 2.0 ** (-(len(words) - 1 - i) / half)
        weighed = {word: score * self.weight(word) for word, score in scores.items()}
        order = sorted((-score, word) for word, score in weighed.items() if score > 0)
        return [word for _, word in order[:count]]


def words_of(text: str) -> list[str]:
    """Runs of three letters or more, in lower case."""
    return _WORD.findall(text.lower())
