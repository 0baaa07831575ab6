"""Rows of label files: Neuronpedia's exports, and tables of one's own."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json, refusing, utf8

KINDS = (".jsonl.gz", ".jsonl", ".csv", ".parquet")
FEATURE_KEYS = ("feature", "index")
DESCRIPTION_KEYS = ("description", "label")
_MOST, _LONGEST = 1 << 31, 1 << 24
SOURCE_KEYS = ("source", "explanationModelName", "typeName")
_COLUMNS = (
    *FEATURE_KEYS,
    *DESCRIPTION_KEYS,
    *SOURCE_KEYS,
    "score",
    "createdAt",
    "modelId",
    "layer",
)


@dataclass(frozen=True)
class Label:
    """What a feature means, in words.

    Attributes:
        text: the words.
        source: who or what wrote them (`statistics`, `endpoint NAME`, ...); "" where unknown.
        score: how well they tell the feature's texts from others, 1 at best; None where not
            measured. What `label_atlas` measures is an AUROC: see `describing.detection`.
    """

    text: str
    source: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Row:
    """A label as a file has it.

    Attributes:
        feature: whose it is.
        label: its text with single blanks.
        created: when, in a spelling that sorts; "" where unknown.
        origin: `modelId/layer` of Neuronpedia; "" elsewhere.
    """

    feature: int
    label: Label
    created: str
    origin: str


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file that have a description.

    Raises:
        InputError: naming the file and the line.
    """
    for number, raw in _raw(path):
        if not isinstance(raw, Mapping):
            raise InputError(f"Expected a JSON object in {path.name} line {number}.")
        feature = _value(raw, FEATURE_KEYS, path, number)
        text = _value(raw, DESCRIPTION_KEYS, path, number)
        try:
            index = int(feature)
        except (TypeError, ValueError, OverflowError):
            index = -1
        if not 0 <= index < _MOST or isinstance(feature, float | bool):
            raise InputError(
                f"Expected a feature number in {path.name} line {number}, got {feature!r}."
            )
        if text is None or not str(text).strip():
            continue
        origin = f"{raw['modelId']}/{raw['layer']}" if raw.get("modelId") and "layer" in raw else ""
        yield Row(
            index,
            Label(
                " ".join(utf8(str(text)).split()),
                next((utf8(str(raw[key])) for key in SOURCE_KEYS if raw.get(key)), ""),
                _score(raw.get("score"), path, number),
            ),
            str(raw.get("createdAt") or ""),
            origin,
        )


def _score(value: Any, path: Path, number: int) -> float | None:
    if value is None or value == "":
        return None
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"Expected a number as score in {path.name} line {number}, got {value!r}.")
    return score


def _value(row: Mapping[str, Any], keys: tuple[str, ...], path: Path, number: int) -> Any:
    for key in keys:
        if key in row:
            return row[key]
    raise InputError(
        f"Expected '{keys[0]}' or '{keys[1]}' in {path.name} line {number}, got the keys "
        f"{', '.join(map(str, row)) or 'none'}."
    )


def _raw(path: Path) -> Iterator[tuple[int, Any]]:
    name = path.name.lower()
    with refusing(path.name):
        if name.endswith(".parquet"):
            yield from _parquet(path)
            return
        if name.endswith(".csv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, row
            return
        opener = gzip.open if name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST), ""), 1):
                if len(line) == _LONGEST:
                    raise ValueError(f"line {number} has more than {_LONGEST} characters")
                if line.strip():
                    try:
                        yield number, parse_json(line)
                    except ValueError as error:
                        reason = getattr(error, "msg", error)
                        raise InputError(
                            f"Expected JSON in {path.name} line {number}: {reason}."
                        ) from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in _COLUMNS]
        if not set(FEATURE_KEYS) & set(names) or not set(DESCRIPTION_KEYS) & set(names):
            raise InputError(
                f"Expected columns 'feature' and 'description' in {path.name}, got "
                f"{', '.join(file.schema_arrow.names) or 'none'}."
            )
        number = 0
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                number += 1
                yield number, row
