"""How many documents and sentences each source has, by length: what the filters' counts need."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

Lengths = dict[str, Counter[int]]
"""By source: how many sentences there are of each length in characters."""


@dataclass
class Tally:
    """Counts of a set of documents and their sentences; a few kilobytes, whatever the set.

    Attributes:
        documents: how many each source has.
        sentences: all of them, by source and length.
        letterless: those without a letter, by source and length.
    """

    documents: Counter[str] = field(default_factory=Counter)
    sentences: Lengths = field(default_factory=dict)
    letterless: Lengths = field(default_factory=dict)

    def add(self, source: str, length: int, letters: bool) -> None:
        """Counts one sentence."""
        self.sentences.setdefault(source, Counter())[length] += 1
        if not letters:
            self.letterless.setdefault(source, Counter())[length] += 1

    def merge(self, other: Tally) -> None:
        """Adds the counts of another set."""
        self.documents.update(other.documents)
        for mine, theirs in (
            (self.sentences, other.sentences),
            (self.letterless, other.letterless),
        ):
            for source, lengths in theirs.items():
                mine.setdefault(source, Counter()).update(lengths)

    def bounds(self, percentiles: Sequence[float | int]) -> tuple[float, float]:
        """The lengths at two percentiles of all sentences."""
        total: Counter[int] = Counter()
        for lengths in self.sentences.values():
            total.update(lengths)
        low, high = (percentile(total, q) for q in percentiles)
        return low, high

    def counts(self, bounds: tuple[float, float]) -> dict[str, dict[str, int]]:
        """How many documents and sentences of each source there are, and pass each filter."""
        within = _between(self.sentences, bounds)
        without = _between(self.letterless, bounds)
        return {
            "documents": by_source(self.documents),
            "sentences": by_source({s: n.total() for s, n in self.sentences.items()}),
            "length": by_source(within),
            "letters": by_source({s: n - without.get(s, 0) for s, n in within.items()}),
        }

    def dumps(self) -> bytes:
        """The counts as JSON."""
        return json.dumps([self.documents, self.sentences, self.letterless]).encode()

    @classmethod
    def loads(cls, content: bytes) -> Tally:
        """Reads what `dumps` wrote."""
        documents, sentences, letterless = json.loads(content)
        return cls(Counter(documents), _lengths(sentences), _lengths(letterless))


def percentile(lengths: Counter[int], q: float) -> float:
    """The q-th percentile of lengths given by their counts, as `numpy.percentile` (linear).

    With x sorted, i = (n - 1) q / 100, j = floor(i) and t = i - j: x_j + (x_(j+1) - x_j) t.
    """
    last = lengths.total() - 1
    index = last * (q / 100)
    below = min(int(index), last)
    share = index - below
    a, b = _ranked(lengths, below, min(below + 1, last))
    # NumPy goes from the nearer end, and to the last bit so does this.
    return float(b - (b - a) * (1 - share) if share >= 0.5 else a + (b - a) * share)


def by_source(counts: dict[str, int] | Counter[str]) -> dict[str, int]:
    """Sources in alphabetical order, those without any left out."""
    return {source: n for source, n in sorted(counts.items()) if n}


def _ranked(lengths: Counter[int], *ranks: int) -> list[int]:
    """The lengths at rising places of the sorted list."""
    found: list[int] = []
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        while len(found) < len(ranks) and ranks[len(found)] < seen:
            found.append(length)
    return found


def _between(lengths: Lengths, bounds: tuple[float, float]) -> dict[str, int]:
    low, high = bounds
    return {
        source: sum(n for length, n in counts.items() if low <= length <= high)
        for source, counts in lengths.items()
    }


def _lengths(counts: dict[str, dict[str, int]]) -> Lengths:
    return {
        source: Counter({int(length): n for length, n in by_length.items()})
        for source, by_length in counts.items()
    }
