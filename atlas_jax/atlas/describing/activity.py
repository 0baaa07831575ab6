"""Where each feature of an atlas is active: its strongest tokens."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from atlas_jax.atlas.blocks import row_blocks
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.atlas.sinks import is_content
from atlas_jax.atlas.token_activations import TokenSource
from atlas_jax.errors import InputError
from atlas_jax.progress import track

_ROWS = 4096


@dataclass(frozen=True)
class Activity:
    """Which tokens each feature is active on.

    Attributes:
        starts: feature f owns entries starts[f] to starts[f + 1].
        rows: row of the recorded activations, strongest first within a feature.
        values: activation there.
        n_rows: how many rows were read.
    """

    starts: Int[np.ndarray, " F_plus_1"]
    rows: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]
    n_rows: int

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values of one feature, strongest first."""
        part = slice(self.starts[feature], self.starts[feature + 1])
        return self.rows[part], self.values[part]


def find_activity(
    sae: SAE, source: TokenSource, max_norm: float, contexts: range | None = None
) -> Activity:
    """Encodes activations and keeps what is active.

    Dense features exist for one block of tokens at a time (see `blocks`); what is kept takes 16
    bytes for each active feature of a token, and as much again while it is sorted.

    Args:
        sae: the autoencoder.
        source: of activations.
        max_norm: norm of an attention sink; those are not read.
        contexts: which contexts to read; default all.

    Raises:
        InputError: a source of another width.
    """
    if source.width != sae.width:
        raise InputError(
            f"Expected activations of width {sae.width}, as the atlas reads, got {source.width}: "
            "they are another model's or site's."
        )
    contexts = range(len(source.tokens)) if contexts is None else contexts
    length = source.tokens.shape[1] - 1
    size = max(1, _ROWS // length)

    @jax.jit
    def run(sae: SAE, x: jax.Array) -> jax.Array:
        return jnp.where(is_content(x, max_norm)[:, None], encode(sae, x), 0.0)

    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    starts = range(contexts.start, contexts.stop, size)
    for start in track(starts, "finding where features are active"):
        acts = source.read(np.arange(start, min(start + size, contexts.stop)))
        for first, x in row_blocks(acts, sae.n_features):
            f = np.asarray(run(sae, x))
            flat = np.flatnonzero(f)
            row, feature = np.divmod(flat, f.shape[1])
            parts.append((feature.astype(np.int32), row + first + start * length, f.ravel()[flat]))
    if not parts:
        raise InputError("Expected contexts to look at, got none.")
    feature, rows, values = (np.concatenate(p) for p in zip(*parts, strict=True))
    parts.clear()
    order = np.lexsort((-values, feature))
    ends = np.searchsorted(feature[order], np.arange(sae.n_features + 1))
    return Activity(ends.astype(np.int64), rows[order], values[order], len(contexts) * length)
