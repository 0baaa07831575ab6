"""A description with what made it and how well it does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError


@dataclass(frozen=True)
class Description:
    """What a feature means, in words.

    Attributes:
        feature: its number.
        description: the words.
        source: what made it (`statistics`, `vocabulary`, `endpoint NAME`, `model NAME`); "" where
            unknown.
        score: AUROC of telling the feature's held-out contexts from others by these words; None
            where it was not measured.
    """

    feature: int
    description: str
    source: str = ""
    score: float | None = None

    def row(self) -> dict[str, Any]:
        """As a line of labels.jsonl."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}


def save_descriptions(found: Iterable[Description], path: Path) -> None:
    """One JSON line for each, under the final name only when whole."""
    draft = path.with_name(f".{path.name}.partial")
    with draft.open("w", encoding="utf-8") as file:
        for description in found:
            file.write(json.dumps(description.row(), ensure_ascii=False) + "\n")
    os.replace(draft, path)


def load_descriptions(path: Path) -> list[Description]:
    """What is in labels.jsonl; nothing where there is no such file.

    Raises:
        InputError: a line that is no description.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            score = row.get("score")
            found.append(
                Description(
                    int(row["feature"]),
                    str(row["description"]),
                    str(row.get("source", "")),
                    None if score is None else float(score),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"Expected feature and description in {path.name} line {number}, got {line[:80]!r}."
            ) from None
    return found


def order(found: Iterable[Description]) -> list[Description]:
    """By feature, the best score first; what has none comes last, in the order it came."""
    return sorted(found, key=lambda d: (d.feature, -(d.score if d.score is not None else -1.0)))
