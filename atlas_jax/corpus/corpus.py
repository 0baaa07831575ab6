"""The result of building a corpus: two halves of texts, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_jax.corpus.texts import Texts
from atlas_jax.corpus.writer import (
    CARD,
    TABLE,
    CorpusWriter,
    hash_of_halves,
    read_card,
    writing_to,
)
from atlas_jax.errors import InputError
from atlas_jax.outside import refusing


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
        return hash_of_halves(self.train.hash, self.eval.hash)

    def __repr__(self) -> str:
        return f"Corpus({len(self.train)} train, {len(self.eval)} eval, {self.hash[:12]})"

    def save(self, folder: str | Path) -> Path:
        """Writes corpus.parquet (text, source, document, split) and corpus.json into `folder`.

        The same corpus gives the same bytes, with the same version of pyarrow.

        Raises:
            InputError: the folder cannot be written to.
        """
        folder = Path(folder).expanduser()
        with writing_to(folder), CorpusWriter(folder, len(self.train)) as writer:
            for half in (self.train, self.eval):
                writer.write(half.table)
            writer.finish(self.counts, self.meta)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Reads what `save` wrote.

        Raises:
            InputError: no corpus there, an unreadable file, or contents that differ from the hash.
        """
        import pyarrow.parquet as pq

        folder = Path(folder).expanduser()
        for name in (TABLE, CARD):
            if not (folder / name).is_file():
                raise InputError(f"Expected {name} in {folder}, it is not there: build it first.")
        with refusing(f"the corpus in {folder}", "Build it again"):
            card = read_card(folder)
            repeated = ["source", "document", "split"]
            table = pq.read_table(folder / TABLE, read_dictionary=repeated)
            halves = [_half(table, name) for name in ("train", "eval")]
            corpus = cls(halves[0], halves[1], card["counts"], card["meta"])
            expected = str(card["hash"])
            found = corpus.hash
        if found != expected:
            raise InputError(
                f"Expected the corpus in {folder} to have hash {expected[:12]}, got "
                f"{found[:12]}: the file was changed or damaged, build it again."
            )
        return corpus


def _half(table: Any, name: str) -> Texts:
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = pc.call_function("equal", [table["split"].cast(pa.string()), pa.scalar(name)])
    return Texts.of_table(table.filter(chosen))
