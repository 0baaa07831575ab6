"""corpus.parquet and corpus.json: the same texts give the same bytes, and half of them nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas_jax.corpus.statistics import Lengths, characters
from atlas_jax.corpus.texts import COLUMNS, Column, Texts, add_to_hash, counts_of, plain
from atlas_jax.errors import InputError
from atlas_jax.files import sealed, unsealed, writing

TABLE = "corpus.parquet"
CARD = "corpus.json"
ROWS = 1 << 16
"""Rows of a row group."""

_SCHEMA = pa.schema([(name, pa.string()) for name in (*COLUMNS, "split")])
# Everything that decides the bytes is said here, lest another default of another version do.
_PARQUET = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["source", "document", "split"],
    "write_statistics": False,
    "store_schema": False,
    "data_page_size": 1 << 20,
    "write_batch_size": 1024,
}


class CorpusWriter:
    """Writes a corpus as its rows come: the training half first, then the other.

    Nothing has the final names before `finish`.

    Args:
        folder: made if need be.
        cut: rows of the training half.
        drafts: folder for what is not finished, on the same disk; default: `folder`.
    """

    def __init__(self, folder: Path, cut: int, drafts: Path | None = None) -> None:
        self.folder, self.cut = folder, cut
        self.rows = 0
        self.characters = Lengths()
        self.hashes = {"train": hashlib.sha256(), "eval": hashlib.sha256()}
        self.counts: dict[str, dict[str, int]] = {"train": {}, "eval": {}}
        self._waiting: list[pa.Table] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._table = (drafts or folder) / f".{TABLE}.{os.getpid()}.part"
        self._file = pq.ParquetWriter(str(self._table), _SCHEMA, **_PARQUET)

    def write(self, table: pa.Table) -> None:
        """Adds rows with the columns text, source and document."""
        table = plain(table.select(COLUMNS))
        here = max(0, min(self.cut - self.rows, len(table)))
        halves = {"train": table.slice(0, here), "eval": table.slice(here)}
        for half, part in halves.items():
            add_to_hash(self.hashes[half], Column(part["text"]))
            counts = self.counts[half]
            for source, n in counts_of(part["source"]).items():
                counts[source] = counts.get(source, 0) + n
        self.characters += characters(Texts.of_table(table))
        split = np.repeat(["train", "eval"], [here, len(table) - here])
        self._waiting.append(table.append_column("split", pa.array(split, pa.string())))
        self.rows += len(table)
        while sum(map(len, self._waiting)) >= ROWS:
            self._write_group()

    def finish(self, counts: dict[str, dict[str, int]], meta: dict[str, Any]) -> None:
        """Closes the table, writes the card, and gives both their names."""
        while self._waiting:
            self._write_group()
        self._file.close()
        train, evaluation = (digest.hexdigest() for digest in self.hashes.values())
        cut = min(self.cut, self.rows)
        card = {
            "hash": hash_of_halves(train, evaluation),
            "train": {"texts": cut, "hash": train},
            "eval": {"texts": self.rows - cut, "hash": evaluation},
            "counts": counts,
            "shares": shares(counts),
            "characters": self.characters.to_dict(),
            "meta": meta,
            "file": file_hash(self._table),
        }
        text = json.dumps(sealed(card), indent=2, ensure_ascii=False)
        with writing(self.folder / CARD) as draft:
            draft.write_text(text + "\n", "utf-8")
            # What a kill between the two leaves does not load: the hashes differ, or there is none.
            os.replace(self._table, self.folder / TABLE)

    def _write_group(self) -> None:
        table = pa.concat_tables(self._waiting)
        # One chunk a column: how the rows came must not show in the pages.
        group = table.slice(0, ROWS).combine_chunks()
        self._file.write_table(group, row_group_size=ROWS)
        rest = table.slice(ROWS)
        self._waiting = [rest] if len(rest) else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            with suppress(OSError):  # of a full disk
                self._file.close()
            self._table.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> dict[str, Any]:
    """corpus.json, once it and the table are found to be what was written.

    Raises:
        ValueError: they are not.
    """
    card = unsealed(json.loads((folder / CARD).read_text("utf-8")))
    if card.get("file") not in (None, file_hash(folder / TABLE)):
        raise ValueError(f"the hash of {TABLE} differs")
    return card


def hash_of_halves(train: str, evaluation: str) -> str:
    """sha256 over the hashes of both halves: the hash of a corpus."""
    return hashlib.sha256((train + evaluation).encode()).hexdigest()


def shares(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """Each source's share of what is left after a stage, by stage, to six digits."""
    totals = {stage: sum(by.values()) for stage, by in counts.items()}
    return {
        stage: {source: round(n / totals[stage], 6) for source, n in by.items()}
        for stage, by in counts.items()
        if totals[stage]
    }


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns what a disk may refuse into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Expected to write the corpus into {folder}, got: {error.strerror or error}."
        ) from error
