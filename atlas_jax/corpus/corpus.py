"""The result of building a corpus: two halves of texts, and their files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from atlas_jax.errors import InputError

_TABLE = "corpus.parquet"
_CARD = "corpus.json"


class Texts(Sequence[str]):
    """Texts in a fixed order, each with its source and its document.

    Args:
        texts: the texts.
        sources: where each comes from; "" for all when left out.
        documents: the document each was part of; "" for all when left out.

    Raises:
        InputError: the three differ in length.
    """

    def __init__(
        self,
        texts: Sequence[str],
        sources: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
    ) -> None:
        self.texts = list(texts)
        self.sources = list(sources) if sources is not None else [""] * len(self.texts)
        self.documents = list(documents) if documents is not None else [""] * len(self.texts)
        lengths = (len(self.texts), len(self.sources), len(self.documents))
        if len(set(lengths)) != 1:
            raise InputError(
                "Expected a source and a document for each text, got "
                f"{lengths[0]} texts, {lengths[1]} sources, {lengths[2]} documents."
            )
        self._hash: str | None = None

    @property
    def hash(self) -> str:
        """sha256 of the texts in order; each goes in after its length in bytes."""
        if self._hash is None:
            digest = hashlib.sha256()
            for text in self.texts:
                content = text.encode()
                digest.update(b"%d\n" % len(content))
                digest.update(content)
            self._hash = digest.hexdigest()
        return self._hash

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts(self.texts[index], self.sources[index], self.documents[index])
        return self.texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts):
            return NotImplemented
        return (self.texts, self.sources, self.documents) == (
            other.texts,
            other.sources,
            other.documents,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({len(self)} texts of {len(set(self.sources))} sources)"


class Corpus:
    """A training half and an evaluation half of one set of sentences.

    Args:
        train: texts to fit on.
        eval: texts to evaluate on; none of them is in `train`.
        counts: by stage of the pipeline, by source: how many were left.
        meta: what it was built from: source, seed, options, versions.
    """

    def __init__(
        self,
        train: Texts,
        eval: Texts,
        counts: dict[str, dict[str, int]] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.train = train
        self.eval = eval
        self.counts = counts or {}
        self.meta = meta or {}

    @property
    def hash(self) -> str:
        """sha256 over the hashes of both halves."""
        return hashlib.sha256((self.train.hash + self.eval.hash).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Corpus({len(self.train)} train, {len(self.eval)} eval, {self.hash[:12]})"

    def save(self, folder: str | Path) -> Path:
        """Writes corpus.parquet (text, source, document, split) and corpus.json into `folder`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(folder).expanduser()
        split = ["train"] * len(self.train) + ["eval"] * len(self.eval)
        table = pa.table(
            {
                "text": pa.array(self.train.texts + self.eval.texts, pa.string()),
                "source": pa.array(self.train.sources + self.eval.sources, pa.string()),
                "document": pa.array(self.train.documents + self.eval.documents, pa.string()),
                "split": pa.array(split, pa.string()),
            }
        )
        lengths = np.array([len(text) for text in self.train.texts + self.eval.texts])
        card = {
            "hash": self.hash,
            "train": {"texts": len(self.train), "hash": self.train.hash},
            "eval": {"texts": len(self.eval), "hash": self.eval.hash},
            "counts": self.counts,
            "characters": {
                "mean": float(lengths.mean()),
                "sd": float(lengths.std()),
                "min": int(lengths.min()),
                "max": int(lengths.max()),
            }
            if len(lengths)
            else None,
            "meta": self.meta,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (_TABLE, _CARD):
                part = folder / f".{name}.{os.getpid()}.part"
                if name == _TABLE:
                    pq.write_table(table, part, compression="zstd")
                else:
                    part.write_text(json.dumps(card, indent=2, ensure_ascii=False), "utf-8")
                os.replace(part, folder / name)
        except OSError as error:
            raise InputError(
                f"Expected to write the corpus into {folder}, got: {error.strerror or error}."
            ) from error
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Reads what `save` wrote.

        Raises:
            InputError: no corpus there, an unreadable file, or contents that differ from the hash.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(folder).expanduser()
        for name in (_TABLE, _CARD):
            if not (folder / name).is_file():
                raise InputError(f"Expected {name} in {folder}, it is not there: build it first.")
        try:
            card = json.loads((folder / _CARD).read_text("utf-8"))
            columns = pq.read_table(folder / _TABLE).to_pydict()
            halves = [_half(columns, name) for name in ("train", "eval")]
            corpus = cls(halves[0], halves[1], card["counts"], card["meta"])
            expected = card["hash"]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"Expected a corpus in {folder}, could not read it ({error}): build it again."
            ) from error
        if corpus.hash != expected:
            raise InputError(
                f"Expected the corpus in {folder} to have hash {expected[:12]}, got "
                f"{corpus.hash[:12]}: the file was changed or damaged, build it again."
            )
        return corpus


def _half(columns: dict[str, list[str]], name: str) -> Texts:
    rows = [i for i, split in enumerate(columns["split"]) if split == name]
    return Texts(*([columns[c][i] for i in rows] for c in ("text", "source", "document")))
