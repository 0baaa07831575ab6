"""Dense features of many tokens, a block at a time: all of them at once may not fit.

temporary memory <= 4 BLOCK_BYTES + 16 rows d bytes, whatever F is
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCK_BYTES = 64 * 2**20
_MOST = 8192


def block_rows(n_features: int) -> int:
    """How many tokens' features (float32) stay within `BLOCK_BYTES`; at least one."""
    return max(1, min(_MOST, BLOCK_BYTES // (4 * n_features)))


def row_blocks(
    x: Float[np.ndarray, "n d"], n_features: int
) -> Iterator[tuple[int, Float[Array, "m d"]]]:
    """Activations in blocks of rows, float32 on the device, each with its first row's number."""
    size = block_rows(n_features)
    for start in range(0, len(x), size):
        yield start, jnp.asarray(np.asarray(x[start : start + size], np.float32))
