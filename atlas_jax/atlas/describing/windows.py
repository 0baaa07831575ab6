"""Short excerpts around tokens, as texts and as embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.embed import Embedder

_BEFORE, _AFTER = 8, 3


def peaks(activity: Activity, feature: int, length: int, count: int) -> Int[np.ndarray, " m"]:
    """Rows of the strongest token in each of up to `count` contexts, strongest first."""
    rows, _ = activity.of(feature)
    _, first = np.unique(rows // (length - 1), return_index=True)
    return rows[np.sort(first)[:count]]


def excerpt(
    reader: ContextReader, row: int, before: int = _BEFORE, after: int = _AFTER, mark: str = "{}"
) -> str:
    """The text around a row's token, from `before` tokens before it to `after` tokens after it.

    Args:
        reader: of the contexts.
        row: of the activations.
        before: tokens.
        after: tokens.
        mark: what is written for the token, with `{}` for its text.
    """
    context, place = divmod(row, reader.tokens.shape[1] - 1)
    pieces, place = reader[context].pieces, place + 1
    token = pieces[place]
    bare = token.strip()
    marked = token.replace(bare, mark.replace("{}", bare), 1) if bare else mark.replace("{}", token)
    left = "".join(pieces[max(0, place - before) : place])
    right = "".join(pieces[place + 1 : place + 1 + after])
    return " ".join((left + marked + right).split())


@dataclass(frozen=True)
class Excerpts:
    """Embedded excerpts, each looked up by its row."""

    rows: Int[np.ndarray, " n"]
    vectors: Float[np.ndarray, "n d"]

    @classmethod
    def of(cls, reader: ContextReader, rows: Int[np.ndarray, " m"], embedder: Embedder) -> Excerpts:
        """Embeds the excerpts around some rows, each once."""
        unique = np.unique(rows)
        return cls(unique, embedder.embed([excerpt(reader, int(row)) for row in unique]))

    def __getitem__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        return self.vectors[np.searchsorted(self.rows, rows)]
