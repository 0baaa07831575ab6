"""What verbalizers said of some directions, as rows of an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from atlas_jax.verbalize.verbalizer import Explanation

Said = Sequence[Sequence[Explanation]]
"""Samples of each direction."""


def embed_said(embedder: Any, said: Said) -> Float32[np.ndarray, "s n e"]:
    """Samples first; a direction without any words is the zero vector."""
    samples = len(said[0])
    texts = [row[i].text for i in range(samples) for row in said]
    rows = embedder.embed([text or " " for text in texts])
    rows[[i for i, text in enumerate(texts) if not text]] = 0
    return rows.reshape(samples, len(said), -1).astype(np.float32)
