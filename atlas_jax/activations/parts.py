"""Parts: what of a recording is planned, computed and entered in the ledger together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped

from atlas_jax.activations.batches import Batch, plan_batches
from atlas_jax.activations.tokens import Tokens

_BATCHES = 32
_PART_BYTES = 2**30
_LEAST = 64


def rows_of_a_part(tokens_per_row: float, batch_tokens: int, row_bytes: int) -> int:
    """A power of two: about 32 batches, but at most 1 GB of activations.

    In few batches, texts of unlike length would have to share one. Two parts are in memory at a
    time: one is computed while the other is written.
    """
    wanted = _BATCHES * batch_tokens / tokens_per_row
    rows = 1 << max(int(np.ceil(np.log2(wanted))), 0)
    while rows > _LEAST and rows * row_bytes > _PART_BYTES:
        rows //= 2
    return max(rows, _LEAST)


@dataclass(frozen=True)
class Part:
    """So many rows of the arrays, and the texts that they come from.

    A row is a text; or a token, and then a text that lies across the border of two parts is read
    for both.

    Attributes:
        index: of the part.
        start: its first row.
        stop: after its last row.
        first: its first text.
        last: after its last text.
        offsets: where each text's rows begin, one entry more than texts; None where a row is a
            text.
    """

    index: int
    start: int
    stop: int
    first: int
    last: int
    offsets: Int64[np.ndarray, " texts_plus_1"] | None = None

    def plan(self, tokens: Tokens, batch_tokens: int) -> list[Batch]:
        """Its texts in batches; a batch's rows count from `first`."""
        return plan_batches(tokens.lengths[self.first : self.last], batch_tokens)

    def put(
        self,
        into: Shaped[np.ndarray, "rows d"],
        batch: Batch,
        values: Shaped[np.ndarray, "b *rest"],
    ) -> None:
        """Sets a batch's results in the part's array.

        Args:
            into: the part's array.
            batch: from `plan`.
            values: (B, d), or (B, T, d) where a row is a token; rows and positions to spare at the
                end.
        """
        if self.offsets is None:
            into[batch.rows] = values[: len(batch.rows)]
            return
        for text, acts in zip(batch.rows, values, strict=False):
            start, stop = self.offsets[text], self.offsets[text + 1]
            a, b = max(start, self.start), min(stop, self.stop)
            into[a - self.start : b - self.start] = acts[a - start : b - start]


def cut_into_parts(rows_per_part: int, tokens: Tokens, by_token: bool) -> Sequence[Part]:
    """All parts of a recording.

    Args:
        rows_per_part: rows of each but the last.
        tokens: of the corpus.
        by_token: a row is a token, not a text.
    """
    rows = len(tokens.ids) if by_token else len(tokens)
    parts = []
    for index, start in enumerate(range(0, rows, rows_per_part)):
        stop = min(start + rows_per_part, rows)
        if not by_token:
            parts.append(Part(index, start, stop, start, stop))
            continue
        first = int(np.searchsorted(tokens.offsets, start, side="right")) - 1
        last = int(np.searchsorted(tokens.offsets, stop, side="left"))
        parts.append(Part(index, start, stop, first, last, tokens.offsets[first : last + 1]))
    return parts
