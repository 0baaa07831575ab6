"""Build a corpus: the pipeline of the paper's appendix A.2 from documents to two halves."""

from __future__ import annotations

import math
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from atlas_jax.corpus.corpus import Corpus
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.draw import draw, quotas, write_unique
from atlas_jax.corpus.hub import commit
from atlas_jax.corpus.sentences import Splitter
from atlas_jax.corpus.sources import documents, kind_of
from atlas_jax.corpus.splitting import split_all
from atlas_jax.corpus.writer import CorpusWriter, writing_to
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

UNFINISHED = ".unfinished"


def build_corpus(
    source: str | Path | Iterable[Document],
    *,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    train_fraction: float | int = 0.5,
    percentiles: tuple[float | int, float | int] = (5, 95),
    splitter: Splitter | None = None,
    text_column: str | None = None,
    source_column: str | None = None,
    max_documents: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
) -> Corpus:
    """Builds the training and evaluation sentences of the paper's appendix A.2.

    Documents are split into sentences (NLTK), lengths outside the percentiles are dropped, then
    sentences without a letter, then repeats; n of the rest are drawn so that each source keeps
    its share, shuffled, and divided. The draw orders sentences by a keyed hash of their text, so
    the result depends on the documents, the options and the seed alone: not on the order in which
    documents come, nor on the machine, nor on the number of processes. A larger n only adds to a
    smaller one, but for rounding.

    Sentences wait on disk: memory holds a few documents and a 64th of the sentences at a time. A
    document of more than a million characters counts as several.

    Args:
        source: "packages", a hub data set, a file or folder (see `documents`), or documents.
        split: split of a hub data set.
        n: sentences in all; None takes every one.
        seed: of the draw and the shuffle.
        train_fraction: share of the training half.
        percentiles: of the lengths in characters, between which sentences are kept.
        splitter: another sentence tokenizer (an object with `tokenize`) than NLTK's; it is called
            in this process.
        text_column: of a table, where it cannot be told.
        source_column: of a table, where it cannot be told.
        max_documents: read no more than the first so many.
        workers: processes that split; default: one for each core, at most 8.
        out: folder to save the corpus in; what an interrupted build left there is not split again.

    Raises:
        InputError: unreadable source, options out of range, or nothing left after a filter.
    """
    _check(n, seed, train_fraction, percentiles, max_documents, workers)
    named = isinstance(source, str | Path)
    revision = commit(str(source)) if named and kind_of(source) == "hub" else None
    meta = {
        "source": str(source) if named else None,
        "revision": revision,
        "split": split,
        "n": n,
        "seed": seed,
        "train_fraction": float(train_fraction),
        "percentiles": [float(q) for q in percentiles],
        "text_column": text_column,
        "source_column": source_column,
        "max_documents": max_documents,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("nltk", "pyarrow")},
    }
    raw: Iterable[Document]
    if isinstance(source, str | Path):
        columns = {"text_column": text_column, "source_column": source_column}
        raw = documents(source, split=split, revision=revision, **columns)
    else:
        raw = source
    what = str(source) if named else "the documents"
    with _folders(out) as (folder, unfinished):
        spills, tally = split_all(islice(raw, max_documents), unfinished, seed, splitter, workers)
        _some(tally.documents, f"documents with text in {what}")
        bounds = tally.bounds(percentiles) if tally.sentences else (0.0, 0.0)
        counts = tally.counts(bounds)
        _some(counts["sentences"], f"sentences in {what}")
        _some(counts["length"], f"sentences between the percentiles {percentiles} in {what}")
        _some(counts["letters"], f"sentences with a letter in {what}")
        with writing_to(folder):
            unique = unfinished / "unique.arrow"
            counts["unique"] = write_unique(spills, bounds, unique)
            total = _available(n, counts["unique"], what)
            share = quotas(counts["unique"], total)
            with CorpusWriter(folder, round(train_fraction * total), unfinished) as writer:
                with Bar("writing sentences", total) as bar:
                    for table in draw(unique, share):
                        writer.write(table)
                        bar.advance(len(table))
                counts["sampled"] = {source: quota for source, quota in share.items() if quota}
                counts |= {half: dict(sorted(by.items())) for half, by in writer.counts.items()}
                writer.finish(counts, meta | {"length_bounds": list(bounds)})
        return Corpus.load(folder)


@contextmanager
def _folders(out: str | Path | None) -> Iterator[tuple[Path, Path]]:
    """Where the corpus goes, and what is not finished: kept when the build is not."""
    from filelock import FileLock, Timeout

    if out is None:
        with tempfile.TemporaryDirectory(prefix="atlas-jax-corpus-") as temporary:
            yield Path(temporary), Path(temporary)
        return
    folder = Path(out).expanduser()
    unfinished = folder / UNFINISHED
    made = not folder.exists()
    with writing_to(folder):
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = FileLock(unfinished / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Expected {folder} for this build alone, another one is at work there: wait for "
                "it, or name another folder."
            ) from None
    done = False
    try:
        yield folder, unfinished
        done = True
    finally:
        lock.release()
        if done or not list(unfinished.glob("*.arrow")):
            shutil.rmtree(unfinished, ignore_errors=True)
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _available(n: int | None, unique: dict[str, int], what: str) -> int:
    there = sum(unique.values())
    if n is not None and n > there:
        warnings.warn(
            f"Expected {n} sentences from {what}, there are {there}: using them all.", stacklevel=3
        )
    return there if n is None else min(n, there)


def _some(left: dict[str, int], what: str) -> None:
    if not left:
        raise InputError(
            f"Expected {what}, got none: check that the source holds text, or widen percentiles."
        )


def _check(
    n: int | None,
    seed: int,
    train_fraction: float | int,
    percentiles: tuple[float | int, float | int],
    max_documents: int | None,
    workers: int | None,
) -> None:
    for name, value in {"n": n, "max_documents": max_documents, "workers": workers}.items():
        if value is not None and value < 1:
            raise InputError(f"Expected {name} of at least 1, got {value}.")
    if abs(seed) >= 1 << 63:
        raise InputError(f"Expected a seed of at most 63 bits, got {seed}.")
    if not (math.isfinite(train_fraction) and 0 <= train_fraction <= 1):
        raise InputError(f"Expected train_fraction between 0 and 1, got {train_fraction}.")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(f"Expected two rising percentiles within 0 and 100, got {percentiles}.")
