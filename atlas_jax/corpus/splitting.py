"""All documents of a source, split into sentences and spilled, here or in processes beside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path

from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.sentences import Splitter, punkt
from atlas_jax.corpus.spill import chunks, name_of, read_tally, write_spill
from atlas_jax.corpus.tally import Tally
from atlas_jax.corpus.workers import MOST, Workers, cores
from atlas_jax.progress import Bar


def split_all(
    documents: Iterable[Document],
    folder: Path,
    seed: int,
    splitter: Splitter | None = None,
    workers: int | None = None,
) -> tuple[list[Path], Tally]:
    """Spills the sentences of all documents into `folder`; returns the files and their counts.

    Files that an earlier call left there are kept as they are, where their documents are the same.

    Args:
        documents: read once, a few ahead of what is split.
        folder: an existing one.
        seed: of the sentences' ranks.
        splitter: default: NLTK's English one, in `workers` processes. Another is called in this
            process, as it may not exist elsewhere, and its files are made anew, as nothing tells
            whether it is still the same.
        workers: default: one for each core, at most 8.
    """
    paths: list[Path] = []
    tally = Tally()
    waiting: deque[tuple[Path, int, Future[None] | None]] = deque()
    n = workers or min(cores(), MOST)
    with Bar("splitting documents into sentences") as bar:

        def finish_one() -> None:
            path, size, future = waiting.popleft()
            if future is not None:
                future.result()
            counted = read_tally(path)
            assert counted is not None
            tally.merge(counted)
            bar.advance(size)

        batches = chunks(documents)
        first = list(islice(batches, 2))
        beside = splitter is None and n > 1 and len(first) > 1
        here = None if beside or not first else splitter or punkt()
        with Workers(n) if beside else nullcontext() as pool:
            for chunk in chain(first, batches):
                path = folder / (f"{len(paths)}.arrow" if splitter else name_of(chunk, seed))
                paths.append(path)
                future: Future[None] | None = None
                if splitter or read_tally(path) is None:
                    if pool is not None:
                        future = pool.submit(chunk, path, seed)
                    if here is not None:
                        write_spill(chunk, path, here, seed)
                waiting.append((path, len(chunk), future))
                while len(waiting) > n:
                    finish_one()
            while waiting:
                finish_one()
    return paths, tally
