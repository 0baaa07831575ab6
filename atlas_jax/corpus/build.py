"""Build a corpus: the pipeline of the paper's appendix A.2 from documents to two halves."""

from __future__ import annotations

import hashlib
import math
import platform
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from atlas_jax.corpus.corpus import Corpus, Texts
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.sentences import (
    Sentence,
    Splitter,
    count,
    length_bounds,
    punkt,
    sentences_of,
    unique,
    with_letters,
    within,
)
from atlas_jax.corpus.sources import documents
from atlas_jax.errors import InputError
from atlas_jax.progress import track


def build_corpus(
    source: str | Path | Iterable[Document],
    *,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    train_fraction: float | int = 0.5,
    percentiles: tuple[float | int, float | int] = (5, 95),
    splitter: Splitter | None = None,
) -> Corpus:
    """Builds the training and evaluation sentences of the paper's appendix A.2.

    Documents are split into sentences (NLTK), lengths outside the percentiles are dropped, then
    sentences without a letter, then repeats; n of the rest are drawn so that each source keeps
    its share, shuffled, and divided. The draw orders sentences by a keyed hash of their text, so
    the result depends on the documents, the options and the seed alone: not on the order in which
    documents come, nor on the machine.

    Args:
        source: "packages", a hub data set, a file or folder (see `documents`), or documents.
        split: split of a hub data set.
        n: sentences in all; None takes every one.
        seed: of the draw and the shuffle.
        train_fraction: share of the training half.
        percentiles: of the lengths in characters, between which sentences are kept.
        splitter: another sentence tokenizer (an object with `tokenize`) than NLTK's.

    Raises:
        InputError: unreadable source, options out of range, or nothing left after a filter.
    """
    _check(n, train_fraction, percentiles)
    named = source if isinstance(source, str | Path) else None
    raw = documents(source, split=split) if isinstance(source, str | Path) else source
    splitter = splitter or punkt()
    counts: dict[str, dict[str, int]] = {}
    read: dict[str, int] = {}
    sentences = list(_split_all(raw, splitter, read))
    counts["documents"] = dict(sorted(read.items()))
    counts["sentences"] = count(_some(sentences, "documents", "splitting them", named))
    bounds = length_bounds(sentences, percentiles)
    sentences = within(sentences, bounds)
    counts["length"] = count(_some(sentences, "sentences", "the length filter", named))
    sentences = with_letters(sentences)
    counts["letters"] = count(_some(sentences, "sentences", "dropping those of no letter", named))
    sentences = unique(sentences)
    counts["unique"] = count(sentences)
    if n is not None and n > len(sentences):
        warnings.warn(
            f"Expected {n} sentences from {named or 'the documents'}, there are "
            f"{len(sentences)}: using them all.",
            stacklevel=2,
        )
        n = None
    sentences = sample(sentences, len(sentences) if n is None else n, seed)
    counts["sampled"] = count(sentences)
    cut = round(train_fraction * len(sentences))
    train, evaluation = sentences[:cut], sentences[cut:]
    counts["train"], counts["eval"] = count(train), count(evaluation)
    meta = {
        "source": str(named) if named is not None else None,
        "split": split,
        "n": n,
        "seed": seed,
        "train_fraction": train_fraction,
        "percentiles": list(percentiles),
        "length_bounds": list(bounds),
        "versions": {"python": platform.python_version(), "nltk": version("nltk")},
    }
    return Corpus(_texts(train), _texts(evaluation), counts, meta)


def sample(sentences: Sequence[Sentence], n: int, seed: int) -> list[Sentence]:
    """Draws `n` sentences in shuffled order, each source keeping its share.

    A keyed hash of the text orders the sentences; each source gives its first ones. A larger n
    therefore only adds to a smaller one, but for rounding.
    """
    key = str(seed).encode()

    def rank(sentence: Sentence) -> bytes:
        return hashlib.blake2b(sentence.text.encode(), digest_size=16, key=key).digest()

    ordered = sorted(sentences, key=rank)
    left = quotas(count(ordered), n)
    drawn = []
    for sentence in ordered:
        if left[sentence.source]:
            left[sentence.source] -= 1
            drawn.append(sentence)
    return drawn


def quotas(counts: dict[str, int], n: int) -> dict[str, int]:
    """Divides `n` in proportion to `counts` by largest remainder; names break ties."""
    total = sum(counts.values())
    exact = {source: divmod(n * c, total) for source, c in counts.items()}
    result = {source: whole for source, (whole, _) in exact.items()}
    by_remainder = sorted(counts, key=lambda source: (-exact[source][1], source))
    for source in by_remainder[: n - sum(result.values())]:
        result[source] += 1
    return result


def _split_all(
    raw: Iterable[Document], splitter: Splitter, read: dict[str, int]
) -> Iterator[Sentence]:
    for document in track(raw, "splitting documents into sentences"):
        read[document.source] = read.get(document.source, 0) + 1
        yield from sentences_of(document, splitter)


def _some(left: list[Sentence], what: str, step: str, named: str | Path | None) -> list[Sentence]:
    if not left:
        raise InputError(
            f"Expected {what} of {named or 'the documents'} to be left after {step}, got none: "
            "check that the source holds text, or widen percentiles."
        )
    return left


def _texts(sentences: Sequence[Sentence]) -> Texts:
    return Texts(
        [s.text for s in sentences],
        [s.source for s in sentences],
        [s.document for s in sentences],
    )


def _check(
    n: int | None, train_fraction: float | int, percentiles: tuple[float | int, float | int]
) -> None:
    if n is not None and n < 1:
        raise InputError(f"Expected n of at least 1, got {n}.")
    if not (math.isfinite(train_fraction) and 0 <= train_fraction <= 1):
        raise InputError(f"Expected train_fraction between 0 and 1, got {train_fraction}.")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(f"Expected two rising percentiles within 0 and 100, got {percentiles}.")
