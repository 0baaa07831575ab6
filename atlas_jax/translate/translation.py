"""A fitted translation: the matrix, what it was made from, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing
from atlas_jax.translate.block_sums import block_sums
from atlas_jax.translate.stored import FORMAT, MATRIX, NORMS, check_meta, largest, norms_of_rows

FILE = "translation.safetensors"
"""The file of a translation's repository on the hub."""


class Vector(Protocol):
    """A query (`Query`)."""

    @property
    def vector(self) -> Any: ...


@dataclass(frozen=True)
class Translation:
    """A linear map between a subject's site and an atlas; rows are subject features.

    Attributes:
        method: how it was fitted.
        matrix: T, (d_s, d_c), float32.
        meta: subject and atlas (model, fingerprint, site), texts, n, pool, options (settings and
            diagnostics of the method), sums (how they were taken), labels of atlas features.
    """

    method: str
    matrix: Float32[np.ndarray, "ds dc"]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        site = self.meta.get("subject", {}).get("site", "?")
        return (
            f"Translation({self.method!r}, {self.matrix.shape[0]} x {self.matrix.shape[1]}, {site})"
        )

    def __str__(self) -> str:
        subject, atlas = (self.meta.get(side, {}) for side in ("subject", "atlas"))
        lines = [
            f"{self.method}: {self.matrix.shape[0]} subject features to {self.matrix.shape[1]} "
            "atlas features",
            f"  subject  {subject.get('model') or '-'}  {subject.get('site') or '-'}",
            f"  atlas    {atlas.get('model') or '-'}  {atlas.get('site') or '-'}",
            f"  samples  {self.meta.get('n', '-')}",
        ]
        for key, value in self.meta.get("options", {}).items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(
                f"  {key:<8} {shown}" if not isinstance(value, list) else f"  {key:<8} ..."
            )
        return "\n".join(lines)

    @cached_property
    def row_norms(self) -> Float32[np.ndarray, " ds"]:
        """Euclidean norm of each row, 1 for zero rows."""
        return norms_of_rows(self.matrix, len(self.matrix))

    def scores(self, query: Vector | np.ndarray) -> Float32[np.ndarray, " ds"]:
        """s = T^ q / ||q||, with T^ the rows of T at unit length   (eq. 3).

        A feature whose row is zero scores 0.

        Args:
            query: (d_c,), or an object whose `vector` is that.

        Raises:
            InputError: another width, a query of another atlas, or one that is zero or not finite.
        """
        q = np.asarray(getattr(query, "vector", query), np.float32)
        if q.shape != (self.matrix.shape[1],):
            raise InputError(
                f"Expected a query of {self.matrix.shape[1]} atlas features, got shape {q.shape}. "
                "Was the translation fitted on another atlas?"
            )
        # An atlas' fingerprint is its features' identity, a dot, and how they are read.
        fitted, _, reading = str((self.meta.get("atlas") or {}).get("fingerprint", "")).partition(
            "."
        )
        made = getattr(query, "atlas", "")
        if made and reading and made != fitted:
            raise InputError(
                "Expected a query of the atlas that the translation was fitted on "
                f"({self.meta['atlas'].get('model', '?')}), got one of another: make it again."
            )
        norm = np.linalg.norm(q.astype(np.float64))  # float32 squares overflow from 1e19 on
        if not np.isfinite(norm) or norm == 0:
            raise InputError("Expected a query that is finite and not zero.")
        return (self.matrix @ (q / norm).astype(np.float32)) / self.row_norms

    def directions(self, concepts: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "ds m"]:
        """The scores of several one-concept queries at once: columns of T^."""
        return self.matrix[:, concepts] / self.row_norms[:, None]

    def row(self, feature: int | str) -> Float32[np.ndarray, " dc"]:
        """The row of a subject feature: its index, or its name `<site>.<index>`."""
        return self.matrix[self._index("subject", feature)]

    def column(self, concept: int | str) -> Float32[np.ndarray, " ds"]:
        """The column of an atlas feature: its index, its name `<site>.<index>`, or its label."""
        return self.matrix[:, self._index("atlas", concept)]

    def with_labels(self, labels: Mapping[int, str]) -> Translation:
        """The same, its atlas features also known by their labels."""
        known = {str(i): text for i, text in labels.items() if 0 <= i < self.matrix.shape[1]}
        return replace(self, meta={**self.meta, "labels": known})

    def top_concepts(self, feature: int | str, k: int = 5) -> list[tuple[int, float]]:
        """The atlas features with the largest entries in a subject feature's unit row."""
        i = self._index("subject", feature)
        return largest(self.matrix[i] / self.row_norms[i], k)

    def top_features(self, concept: int | str, k: int = 5) -> list[tuple[int, float]]:
        """The subject features that score highest on an atlas feature (eq. 3)."""
        return largest(self.column(concept) / self.row_norms, k)

    def _index(self, side: str, name: int | str) -> int:
        """Raises InputError: no such feature."""
        width = self.matrix.shape[0 if side == "subject" else 1]
        found: Any = name
        if isinstance(name, str):
            site, _, number = name.rpartition(".")
            labels = self.meta.get("labels", {}) if side == "atlas" else {}
            if number.isdecimal() and site in ("", self.meta.get(side, {}).get("site")):
                found = int(number)
            else:
                found = next((int(i) for i, text in labels.items() if text == name), -1)
        if not 0 <= found < width:
            raise InputError(
                f"Expected a feature of the {side}, by name or from 0 to {width - 1}, got {name!r}."
            )
        return int(found)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes safetensors, with row norms and the metadata as a JSON header, in one step."""
        header = {"format": FORMAT, "method": self.method, "meta": json.dumps(dict(self.meta))}
        tensors = {MATRIX: self.matrix, NORMS: self.row_norms}
        return write_tensors(path, tensors, header | block_sums(self.matrix))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Translation:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, or not a whole translation.
        """
        notes, tensors = read_tensors(path, "translation", "fit it again", FORMAT, "meta", [MATRIX])
        with refusing(f"the translation at {path}", "It is damaged: fit it again"):
            check_meta(notes["meta"], tensors[MATRIX].shape, tensors[MATRIX].dtype.name)
            return cls(notes.get("method", ""), tensors[MATRIX], notes["meta"])

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Uploads the translation with a card; returns the commit's address. See `hub.push`."""
        from atlas_jax.hub import card, push

        about = f"A translation of atlas-jax.\n\n```\n{self}\n```"
        header = {"method": self.method, **self.meta}
        load = f'translation = aj.Translation.from_hub("{repo_id}")'
        text = card(f"{self.method} translation", about, load, FILE, header)
        return push(self.save, FILE, text, repo_id, token, private=private, revision=revision)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | None = None
    ) -> Translation:
        """Reads what `push_to_hub` uploaded. See `hub.pull`."""
        from atlas_jax.hub import pull

        return cls.load(pull(FILE, repo_id, revision, token))
