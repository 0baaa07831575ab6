"""What a capture took, and what limited it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CaptureReport:
    """Of one process.

    Attributes:
        texts: read in this run.
        tokens: of those texts.
        positions: computed, padding and rows to spare included.
        shapes: batches of how many shapes, each compiled once.
        seconds: from the first batch to the last byte on the disk.
        forward_waited: of those, the seconds in which no batch was started because an earlier part
            was still being written.
        store_waited: the seconds in which nothing was being written.
        written: bytes of activations, before compression.
    """

    texts: int = 0
    tokens: int = 0
    positions: int = 0
    shapes: int = 0
    seconds: float = 0.0
    forward_waited: float = 0.0
    store_waited: float = 0.0
    written: int = 0

    @property
    def padding(self) -> float:
        """The share of computed positions that hold no token."""
        return 1 - self.tokens / self.positions if self.positions else 0.0

    @property
    def limit(self) -> str:
        """What a faster run needs more of."""
        return "disk" if self.forward_waited > self.store_waited else "forward pass"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the derived ones and the text too."""
        derived = {"padding": self.padding, "limit": self.limit, "text": str(self)}
        return asdict(self) | derived

    def __str__(self) -> str:
        rate = self.tokens / max(self.seconds, 1e-9)
        return (
            f"{self.texts:,} texts, {self.tokens:,} tokens in {self.seconds:.1f} s ({rate:,.0f} "
            f"tokens/s), padding {self.padding:.1%} in {self.shapes} shapes, "
            f"{self.written / 1e6:,.1f} MB; limit: the {self.limit} (it waited "
            f"{self.forward_waited:.1f} s for the store, which waited {self.store_waited:.1f} s)"
        )
