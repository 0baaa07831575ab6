"""Attention sinks: the few tokens whose activations are hundreds of times larger than all others.

A model parks attention on the first token, and on some texts on the second one too. Such
activations carry no content, yet hold most of a site's variance: an autoencoder must neither be
trained on them nor read there. They are told apart by their norm, |x| > limit.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_FACTOR = 10.0
_SAMPLE = 20_000
_BLOCK = 1 << 16


def norm_limit(acts: Float[np.ndarray, "n d"]) -> float:
    """Ten times the median norm of up to 20,000 rows: far above any content, far below a sink."""
    sample = np.asarray(acts[:: max(1, len(acts) // _SAMPLE)], np.float32)
    return _FACTOR * float(np.median(np.linalg.norm(sample, axis=1)))


def content_rows(acts: Float[np.ndarray, "n d"], limit: float) -> np.ndarray:
    """The rows that are no sinks, in order."""
    keep = [
        start + np.flatnonzero(np.linalg.norm(block.astype(np.float32), axis=1) <= limit)
        for start in range(0, len(acts), _BLOCK)
        for block in (acts[start : start + _BLOCK],)
    ]
    return np.concatenate(keep) if keep else np.zeros(0, np.int64)


def is_content(x: Float[Array, "*b d"], limit: float | Float[Array, ""]) -> Bool[Array, "*b"]:
    """True where an activation is no sink."""
    return jnp.sqrt(jnp.sum(x.astype(jnp.float32) ** 2, axis=-1)) <= limit
