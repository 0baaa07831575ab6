"""Labels: what each feature of an atlas means, in words."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError

FEATURE_KEYS = ("feature", "index")
DESCRIPTION_KEYS = ("description", "label")


@dataclass(frozen=True)
class Labels:
    """Descriptions of features, the best first; features without any are simply absent."""

    descriptions: Mapping[int, tuple[str, ...]]

    def __getitem__(self, feature: int) -> tuple[str, ...]:
        return self.descriptions.get(int(feature), ())

    def __contains__(self, feature: object) -> bool:
        return feature in self.descriptions

    def __len__(self) -> int:
        return len(self.descriptions)

    def pairs(self) -> Iterator[tuple[int, str]]:
        """Every (feature, description), by feature, the best description first."""
        for feature in sorted(self.descriptions):
            for text in self.descriptions[feature]:
                yield feature, text

    def coverage(self, n_features: int) -> float:
        """Share of an atlas' features that have a description."""
        return sum(0 <= f < n_features for f in self.descriptions) / n_features

    def check(self, n_features: int) -> None:
        """Refuses labels that name features the atlas does not have.

        Raises:
            InputError: the labels belong to a larger atlas.
        """
        top = max(self.descriptions, default=-1)
        if top >= n_features:
            raise InputError(
                f"Expected labels of features below {n_features}, got one for feature {top}: "
                "they belong to another atlas."
            )

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, str]]) -> Labels:
        """Gathers (feature, description) pairs in order, repeated descriptions once."""
        gathered: dict[int, dict[str, None]] = {}
        for feature, text in pairs:
            gathered.setdefault(feature, {})[text] = None
        return cls({feature: tuple(texts) for feature, texts in gathered.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Labels:
        """Reads `.jsonl`, `.jsonl.gz` or `.csv`; a folder of them counts as one.

        A row names its feature (`feature`, or `index` as Neuronpedia exports do) and its
        description (`description` or `label`). Rows may repeat a feature and come in any order:
        they are joined on the number, never on their position. Rows without a description are
        left out.

        Raises:
            InputError: naming the file and the line.
        """
        path = Path(path)
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if _kind(f))
            if not files:
                raise InputError(f"Expected .jsonl, .jsonl.gz or .csv files in {path}, found none.")
        elif not path.exists():
            raise InputError(f"Expected a file of labels, {path} does not exist.")
        elif not _kind(path):
            raise InputError(f"Expected labels as .jsonl, .jsonl.gz or .csv, got {path.name}.")
        else:
            files = [path]
        return cls.of(pair for file in files for pair in _pairs(file))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one JSON line for each description, under its final name only when whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.partial")
        with draft.open("w", encoding="utf-8") as file:
            for feature, text in self.pairs():
                row = {"feature": feature, "description": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(draft, path)


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    return next((k for k in (".jsonl.gz", ".jsonl", ".csv") if name.endswith(k)), None)


def _pairs(path: Path) -> Iterator[tuple[int, str]]:
    for number, row in _rows(path):
        if not isinstance(row, dict):
            raise InputError(f"Expected a JSON object in {path.name} line {number}.")
        feature = _value(row, FEATURE_KEYS, path, number)
        text = _value(row, DESCRIPTION_KEYS, path, number)
        try:
            index = int(feature)
        except (TypeError, ValueError):
            index = -1
        if index < 0 or isinstance(feature, float):
            raise InputError(
                f"Expected a feature number in {path.name} line {number}, got {feature!r}."
            )
        if text is not None and str(text).strip():
            yield index, " ".join(str(text).split())


def _value(row: dict[str, Any], keys: tuple[str, ...], path: Path, number: int) -> Any:
    for key in keys:
        if key in row:
            return row[key]
    raise InputError(
        f"Expected '{keys[0]}' or '{keys[1]}' in {path.name} line {number}, got the keys "
        f"{', '.join(map(str, row)) or 'none'}."
    )


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    kind = _kind(path)
    try:
        if kind == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, row
            return
        opener = gzip.open if kind == ".jsonl.gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as error:
                        raise InputError(
                            f"Expected JSON in {path.name} line {number}: {error.msg}."
                        ) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"Could not read {path.name}: {error}.") from None
