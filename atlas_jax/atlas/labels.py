"""Labels: what each feature of an atlas means, in words."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atlas_jax.atlas.label_rows import KINDS, Label, Row, read_rows
from atlas_jax.errors import InputError
from atlas_jax.files import check_sum, write_sum, writing

DEAD = "never active on the texts used"
"""The description of a feature that nothing is known about; no search finds it."""


@dataclass(frozen=True)
class Labels:
    """Descriptions of features, the best first; features without any are simply absent.

    Attributes:
        features: the labels of each feature.
        origin: the autoencoder they were written for, `model/source` as Neuronpedia names it, where
            known.
    """

    features: Mapping[int, tuple[Label, ...]]
    origin: str = ""

    def __getitem__(self, feature: int) -> tuple[str, ...]:
        return self.descriptions.get(int(feature), ())

    def __contains__(self, feature: object) -> bool:
        return feature in self.features

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def descriptions(self) -> dict[int, tuple[str, ...]]:
        """The texts alone."""
        return {
            feature: tuple(dict.fromkeys(label.text for label in labels))
            for feature, labels in self.features.items()
        }

    def pairs(self) -> Iterator[tuple[int, Label]]:
        """Every (feature, label), by feature, the best label first."""
        for feature in sorted(self.features):
            for label in self.features[feature]:
                yield feature, label

    def rows(self) -> list[dict[str, Any]]:
        """What `save` writes, an object for each label; what is not known is left out."""
        return [
            {"feature": feature, "description": label.text}
            | ({"source": label.source} if label.source else {})
            | ({"score": label.score} if label.score is not None else {})
            for feature, label in self.pairs()
        ]

    def coverage(self, n_features: int) -> float:
        """Share of an atlas' features that have a description."""
        return sum(0 <= f < n_features for f in self.features) / n_features

    def check(self, n_features: int) -> None:
        """Refuses labels that name features the atlas does not have.

        Raises:
            InputError: the labels belong to a larger atlas.
        """
        top = max(self.features, default=-1)
        if top >= n_features:
            raise InputError(
                f"Expected labels of features below {n_features}, got one for feature {top}: "
                "they belong to another atlas."
            )

    def check_origin(self, wanted: str) -> None:
        """Refuses labels that were written for another autoencoder, where both are known.

        Raises:
            InputError: naming the two.
        """
        if wanted and self.origin and wanted != self.origin:
            raise InputError(f"Expected labels of {wanted}, got labels of {self.origin}.")

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, str | Label]], origin: str = "") -> Labels:
        """Gathers (feature, label) pairs; scored labels first, the best of them leading.

        Labels without a score keep their order; of what one source repeats, the first one counts.
        """
        gathered: dict[int, dict[tuple[str, str], Label]] = {}
        for feature, label in pairs:
            label = Label(label) if isinstance(label, str) else label
            gathered.setdefault(feature, {}).setdefault((label.text, label.source), label)
        return cls({f: tuple(sorted(v.values(), key=_rank)) for f, v in gathered.items()}, origin)

    @classmethod
    def load(cls, path: str | os.PathLike[str], origin: str = "") -> Labels:
        """Reads `.jsonl`, `.jsonl.gz`, `.csv` or `.parquet`; a folder of them counts as one.

        A row names its feature (`feature`, or `index` as Neuronpedia exports do) and its
        description (`description` or `label`); it may have a `score`. Rows may repeat a feature and
        come in any order: they are joined on the number, never on their position. The best label
        has the highest score; where there are no scores, it is the newest (`createdAt`). Rows
        without a description are left out.

        Args:
            path: a file, or a folder, searched with those inside it.
            origin: which autoencoder's rows to take, where there are several.

        Raises:
            InputError: naming the file and the line, or the autoencoders there are.
        """
        path = Path(path).expanduser()
        rows: dict[str, list[Row]] = {}
        for file in _files(path):
            check_sum(file, "describe the features again")
            for row in read_rows(file):
                rows.setdefault(row.origin, []).append(row)
        if len(rows) > 1 and origin not in rows:
            raise InputError(
                f"Expected labels of one autoencoder in {path}, got those of {len(rows)}: "
                f"{', '.join(sorted(rows)[:3])}. Give the folder of one."
            )
        found = origin if origin in rows else next(iter(rows), "")
        chosen = sorted(rows.get(found, ()), key=lambda row: row.created, reverse=True)
        return cls.of(((row.feature, row.label) for row in chosen), found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one JSON line for each description, under its final name only when whole."""
        with writing(path) as draft, draft.open("w", encoding="utf-8", errors="replace") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        write_sum(path)


def _rank(label: Label) -> float:
    return math.inf if label.score is None else -label.score


def _files(path: Path) -> list[Path]:
    if os.path.isdir(path):
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(KINDS))
        if not files:
            raise InputError(f"Expected {', '.join(KINDS)} files in {path}, found none.")
        return files
    if not os.path.exists(path):
        raise InputError(f"Expected a file of labels, {path} does not exist.")
    if not path.name.lower().endswith(KINDS):
        raise InputError(f"Expected labels as {', '.join(KINDS)}, got {path.name}.")
    return [path]
