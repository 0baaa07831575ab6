"""Concept sets: for each subject feature some texts that activate it, as both models read them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_jax.activations.in_memory import read_texts
from atlas_jax.activations.recording import Source
from atlas_jax.activations.top_samples import find_top_samples
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.files import write_text
from atlas_jax.outside import parse_json, refusing
from atlas_jax.progress import track

_ROWS = 4096
_MOST = 1 << 31


@dataclass(frozen=True)
class ConceptSets:
    """Mean activations of each feature's texts.

    Attributes:
        features: the subject features, one for each set.
        queries: mean atlas activations of the set.
        means: mean activation of feature k over set i, at (i, k); of other texts than the query's
            where there are some.
        size: texts of a set.
        source: where the texts come from.
    """

    features: Int[np.ndarray, " m"]
    queries: Float[np.ndarray, "m dc"]
    means: Float[np.ndarray, "m m"]
    size: int
    source: str

    def valid(self) -> dict[str, Bool[np.ndarray, " m"]]:
        """By rule, which sets activate their own feature most.

        `sets`: of all sets, its own activates feature i most. `features`: of all features here, set
        i activates feature i most, relative to the feature's mean over the sets.
        """
        own = np.diagonal(self.means)
        average = np.abs(self.means.mean(axis=0))
        relative = self.means / np.where(average > 0, average, 1.0)
        return {
            "sets": own >= self.means.max(axis=0),
            "features": np.diagonal(relative) >= relative.max(axis=1),
            "none": np.ones(len(own), bool),
        }


def sets_from_samples(
    subject: Any,
    atlas: Any,
    features: int | Sequence[int] = 454,
    size: int = 20,
    seed: int = 0,
) -> ConceptSets:
    """Sets made of the recorded texts that activate a feature most.

    Of the 2 `size` texts that activate a feature most, every other one makes the query; the rest
    tell whether the set is valid, so that the texts of a query never judge themselves.

    Args:
        subject: A_s (N, d_s) of held-out texts: an array, or a store's site.
        atlas: A_c (N, d_c) of the same texts in the same order.
        features: how many to draw of those that are active on 2 `size` texts, or which.
        size: texts of a set.
        seed: of the draw.

    Raises:
        InputError: sides of unlike length, too few texts, or a feature that is not there.
    """
    if subject.shape[0] != atlas.shape[0] or subject.shape[0] < 4 * size:
        raise InputError(
            f"Expected both sides on the same texts, at least {4 * size} for sets of {size}, got "
            f"{subject.shape[0]} and {atlas.shape[0]}."
        )
    if hasattr(subject, "top_samples"):
        top = subject.top_samples(2 * size)
    else:
        top = find_top_samples(_batches(subject, "top samples"), subject.shape[1], 2 * size)
    chosen = _choose(features, top.values[-1] > 0, seed)
    rows = top.rows[:, chosen].T
    queries = set_means(rows[:, ::2], atlas)
    means = set_means(rows[:, 1::2], subject)[:, chosen]
    return ConceptSets(chosen, queries, means, size, "held-out texts that activate it most")


def _choose(features: int | Sequence[int], live: Bool[np.ndarray, " ds"], seed: int) -> np.ndarray:
    if not isinstance(features, int):
        chosen = np.asarray(features, np.int64)
        wrong = [int(f) for f in chosen if not 0 <= f < len(live)]
        if wrong or len(set(chosen.tolist())) < len(chosen):
            raise InputError(
                f"Expected different subject features from 0 to {len(live) - 1}, got "
                f"{wrong or 'some twice'}."
            )
        return chosen
    eligible = np.flatnonzero(live)
    size = min(features, len(eligible))
    return np.sort(np.random.default_rng([seed, 3]).choice(eligible, size, replace=False))


def set_means(members: Int[np.ndarray, "m size"], rows: Any) -> Float[np.ndarray, "m d"]:
    """Mean of some rows for each set, in one pass over all rows."""
    from scipy.sparse import csc_array

    m, size = members.shape
    weights = csc_array(
        (np.full(m * size, 1.0 / size), (np.repeat(np.arange(m), size), members.ravel())),
        shape=(m, int(rows.shape[0])),
    )
    total, start = np.zeros((m, int(rows.shape[1]))), 0
    for batch in _batches(rows, "averaging sets"):
        part = weights[:, start : start + len(batch)]
        used = np.flatnonzero(np.diff(part.indptr))
        total += part[:, used] @ np.asarray(batch[used], np.float64)
        start += len(batch)
    return total.astype(np.float32)


def _batches(rows: Any, label: str) -> Any:
    steps = -(-int(rows.shape[0]) // _ROWS)
    if hasattr(rows, "batches"):
        return track(rows.batches(_ROWS), label, steps)
    return track(
        (np.asarray(rows[i * _ROWS : (i + 1) * _ROWS]) for i in range(steps)), label, steps
    )


def sets_from_texts(
    subject: Source,
    site: str,
    atlas: Source,
    texts: Mapping[int, Sequence[str]],
    *,
    source: str = "texts",
    **reading: Any,
) -> ConceptSets:
    """Sets of given texts: both models read them, and nothing is stored.

    Args:
        subject: the model that has the features.
        site: theirs.
        atlas: the atlas.
        texts: by feature, as `read_sets` reads them.
        source: where the texts come from.
        reading: pool, batch_tokens and max_tokens of `capture`.

    Raises:
        InputError: a feature that is not there, or a text of one token.
    """
    features = np.array(sorted(texts), np.int64)
    width = subject.width(site)
    if not len(features) or features[0] < 0 or features[-1] >= width:
        raise InputError(
            f"Expected sets of features of {site}, from 0 to {width - 1}, got "
            f"{[int(f) for f in features if not 0 <= f < width] or 'none'}."
        )
    flat = [text for feature in features for text in texts[int(feature)]]
    corpus = Texts(flat, [""] * len(flat), [str(i) for i in range(len(flat))])
    sizes = [len(texts[int(feature)]) for feature in features]
    read = []
    for model, name in ((subject, site), (atlas, atlas.sites[0])):
        rows = read_texts(model, corpus, name, **reading).astype(np.float64)
        parts = np.split(rows, np.cumsum(sizes)[:-1])
        read.append(np.stack([part.mean(axis=0) for part in parts]).astype(np.float32))
    return ConceptSets(features, read[1], read[0][:, features], max(sizes), source)


def read_sets(path: str | Path) -> dict[int, list[str]]:
    """Sets from a JSONL file, a line {"feature": 12, "texts": ["...", ...]} for each.

    Raises:
        InputError: no such file, or a line of another form.
    """
    path = Path(path).expanduser()
    if not os.path.isfile(path):
        raise InputError(f"Expected a file of concept sets, there is none at {path}.")
    found: dict[int, list[str]] = {}
    with refusing(f"the concept sets in {path}"):
        lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            feature, texts = row["feature"], row["texts"]
            good = (
                type(feature) is int and 0 <= feature < _MOST and isinstance(texts, list) and texts
            )
            if not good or not all(isinstance(t, str) and t.strip() for t in texts):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f'Expected {{"feature": 12, "texts": ["..."]}} in line {number} of {path}, got '
                f"{line[:60]!r}."
            ) from None
        if feature in found:
            raise InputError(f"Expected each feature once in {path}, {feature} comes twice.")
        found[feature] = texts
    if not found:
        raise InputError(f"Expected concept sets in {path}, it has none.")
    return found


def write_sets(path: str | Path, texts: Mapping[int, Sequence[str]]) -> Path:
    """Writes what `read_sets` reads."""
    lines = [
        json.dumps({"feature": int(f), "texts": list(t)}, ensure_ascii=False)
        for f, t in texts.items()
    ]
    return write_text(path, "\n".join(lines) + "\n")
